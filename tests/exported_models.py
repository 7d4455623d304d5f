"""Networks and layers in ONNX files of packed layers, compared with what convert makes of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from converted_models import converted, spread_norms
from onnx_runs import RUNTIMES
from torch import Tensor, nn

import quantize

K = "xnor:input_scale=True"


def behind_a_convolution(
    build: Callable[[], nn.Module | Sequence[nn.Module]], kernel: int
) -> tuple[nn.Module, nn.Module, Tensor]:
    """The prepared network, the packed one, and their input; a list of modules follows a convolution to 32 channels."""
    torch.manual_seed(0)
    net = build()
    net = net if isinstance(net, nn.Module) else nn.Sequential(nn.Conv2d(64, 32, kernel, bias=False), *net)
    x = torch.randn(4, 64, 11, 9)
    return *converted(net, x, keep_float=()), x


def prepared_layers(build: Callable[[], nn.Module], scheme: str, shape: Sequence[int]) -> tuple[nn.Module, Tensor]:
    """All layers binary, batch norms as after training, and an input of this shape."""
    torch.manual_seed(0)
    prepared = quantize.prepare(build(), scheme, keep_float=())
    x = torch.randn(shape)
    spread_norms(prepared, x)
    return prepared, x


def assert_file_computes_the_same(
    net: nn.Module, x: Tensor, path: Path, format: str, tolerance: float, runtimes: Mapping = RUNTIMES
) -> None:
    """Export, run in another batch size, compare with the converted model."""
    report = quantize.export_onnx(net, path, x, format=format)
    assert report.parity.difference <= tolerance
    batch = torch.randn(3, *x.shape[1:])
    expected = quantize.convert(net, x)(batch).numpy()
    largest = np.abs(expected).max()
    for name, run in runtimes.items():
        np.testing.assert_allclose(run(path, batch)[0], expected, tolerance, tolerance * largest, err_msg=name)


def assert_same_file(prepared: nn.Module, packed: nn.Module, x: Tensor, folder: Path, format: str) -> None:
    """The converted model is exported as it is."""
    for name, net in (("prepared", prepared), ("packed", packed)):
        quantize.export_onnx(net, folder / f"{name}.onnx", x, format=format)
    assert (folder / "prepared.onnx").read_bytes() == (folder / "packed.onnx").read_bytes()
