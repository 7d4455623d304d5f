"""Whole networks: converted to bits, and their float twins, with random weights."""

import copy
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import models
import quantize
from quantize.scheme import preferred_layouts

from ..side import Built, Side, optional_module
from .onnxruntime_sides import session

CALIBRATION_BATCHES = 4
CALIBRATION_IMAGES = 32  # of our own file


@dataclasses.dataclass(frozen=True)
class NetworkProblem:
    """A batch, the float network and the binary one in evaluation mode, and their answers."""

    x: Tensor
    float_model: nn.Module
    binary_model: nn.Module
    expected: Tensor
    expected_binary: Tensor

    @classmethod
    def of(cls, x: Tensor, networks: tuple[nn.Module, nn.Module]) -> "NetworkProblem":
        """Of a batch, the float network and the binary one.

        The binary one's answer is that of the converted network by the reference kernels, in PyTorch's operations:
        batch norms that are folded into thresholds round otherwise than those of the network before, and a sign that
        moves in an untrained deep network moves all that follow. `convert` compares the two part by part.
        """
        float_model, binary = networks
        with torch.inference_mode(), mock.patch.dict(os.environ, XNORKIT_KERNEL="reference"):
            return cls(x, *networks, float_model(x), quantize.convert(binary, x)(x))


@dataclasses.dataclass(frozen=True)
class NetworkCase:
    """A network of models/ whose name ends in a scheme. Raises ValueError for another name."""

    name: str

    def __post_init__(self):
        if self.spec.scheme is None:
            raise ValueError(f"network {self.name!r} is a float one; name it with a scheme: {self.name}_xnornet")

    @functools.cached_property
    def spec(self) -> models.ModelSpec:
        return models.resolve(self.name, preferred_layouts())

    @functools.cached_property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The float network and the binary one, the same each time."""
        torch.manual_seed(0)
        x = torch.randn(8, *self.spec.input_size)
        float_model = settle(models.create_model(self.name, schemes=preferred_layouts()), x)
        binary = quantize.prepare(float_model, self.spec.scheme, x, keep_float=self.spec.keep_float)
        return float_model, settle(binary, x)

    @functools.cached_property
    def cost(self) -> quantize.Summary:
        return quantize.summary(self.networks[1], self.batch(1))

    def batch(self, size: int) -> Tensor:
        return torch.randn(size, *self.spec.input_size, generator=torch.Generator().manual_seed(size))

    def macs(self, batch: int) -> int:
        return batch * (self.cost.macs + self.cost.binary_macs)

    def problem(self, batch: int) -> NetworkProblem:
        return NetworkProblem.of(self.batch(batch), self.networks)


def settle(model: nn.Module, x: Tensor) -> nn.Module:
    """``model`` in evaluation mode, its batch norms with the statistics of ``x``: activations keep their size."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def _torch_run(model: Callable[[Tensor], Tensor], x: Tensor) -> Built:
    def run() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return Built(run)


def build_converted(problem: NetworkProblem, threads: int) -> Built:
    return _torch_run(quantize.convert(problem.binary_model, problem.x), problem.x)


def build_captured(problem: NetworkProblem, threads: int) -> Built:
    run = quantize.capture(quantize.convert(problem.binary_model, problem.x), problem.x)
    return _torch_run(run, problem.x)


def build_torch_float(problem: NetworkProblem, threads: int) -> Built:
    return _torch_run(copy.deepcopy(problem.float_model), problem.x)


def _session_run(runtime_session: Any, x: Tensor) -> Built:
    feed = {runtime_session.get_inputs()[0].name: x.numpy()}
    return Built(lambda: runtime_session.run(None, feed)[0])


def _exported(model: nn.Module, x: Tensor, folder: Path, **options: Any) -> Path:
    path = folder / "network.onnx"
    quantize.export_onnx(model, path, x, check=False, **options)
    return path


def packed_file(problem: NetworkProblem, folder: Path) -> Path:
    """The binary network in our operators."""
    return _exported(problem.binary_model, problem.x, folder)


def exact_int8_file(problem: NetworkProblem, folder: Path) -> Path:
    """The binary network in integer operators."""
    return _exported(problem.binary_model, problem.x, folder, format="int8")


def int8_ends_file(problem: NetworkProblem, folder: Path) -> Path:
    """The binary network in our operators, its float layers in 8 bits, calibrated on random images."""
    images = torch.randn(CALIBRATION_IMAGES, *problem.x.shape[1:], generator=torch.Generator().manual_seed(1))
    options = {"float_layers": "int8", "calibration": images, "max_drop": 100}
    return _exported(problem.binary_model, problem.x, folder, **options)


def float_file(problem: NetworkProblem, folder: Path) -> Path:
    """The float twin."""
    return _exported(problem.float_model, problem.x, folder, format="standard")


class _Batches:
    """onnxruntime's calibration data reader, over random batches."""

    def __init__(self, x: Tensor, name: str):
        generator = torch.Generator().manual_seed(1)
        batches = (torch.randn(x.shape, generator=generator) for _ in range(CALIBRATION_BATCHES))
        self._feeds = iter([{name: batch.numpy()} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def int8_file(problem: NetworkProblem, folder: Path) -> Path:
    """The float twin after onnxruntime's own static quantization, u8 activations by s8 weights."""
    quantization = optional_module("onnxruntime.quantization")
    path = float_file(problem, folder)
    folded, quantized = path.with_suffix(".folded.onnx"), path.with_suffix(".int8.onnx")
    quantization.quant_pre_process(path, folded)  # batch norm into convolutions
    quantization.quantize_static(
        folded, quantized, _Batches(problem.x, "input"),
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    return quantized


def build_packed_onnx(
    problem: NetworkProblem,
    threads: int,
    kernels: bool = True,
    write: Callable[[NetworkProblem, Path], Path] = packed_file,
) -> Built:
    """Our kernels inside onnxruntime, or what it makes of the functions' bodies."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(problem, Path(folder))
        return _session_run(quantize.ort_session(path, threads=threads, kernels=kernels), problem.x)


def build_file(write: Callable[[NetworkProblem, Path], Path], problem: NetworkProblem, threads: int) -> Built:
    """A file of standard operators in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        return _session_run(session(write(problem, Path(folder)).read_bytes(), threads), problem.x)


def expected_binary(problem: NetworkProblem) -> Tensor:
    return problem.expected_binary


def expected_int8_ends(problem: NetworkProblem) -> Tensor:
    """What onnxruntime computes of that file without our library: 8 bits are another network."""
    return torch.from_numpy(build_packed_onnx(problem, 1, kernels=False, write=int8_ends_file).run())


def network_sides(ours: str) -> Sequence[Side]:
    """All of them, ours first. onnxruntime's int8 is another network: of it only nonsense is noticed."""
    return (
        Side(ours, "xnorkit", build_converted, expected_binary, tolerance=1e-4),
        Side("xnorkit_captured", "xnorkit, captured", build_captured, expected_binary, tolerance=1e-4),
        Side("xnorkit_onnx", "xnorkit in onnxruntime", build_packed_onnx, expected_binary, tolerance=1e-4),
        Side(
            "xnorkit_onnx_int8",
            "xnorkit in onnxruntime, float layers in 8 bits",
            functools.partial(build_packed_onnx, write=int8_ends_file),
            expected_int8_ends,
            tolerance=1e-4,
        ),
        Side(
            "xnorkit_int8",
            "xnorkit's int8 file",
            functools.partial(build_file, exact_int8_file),
            expected_binary,
            tolerance=1e-4,
        ),
        Side(
            "xnorkit_onnx_alone",
            "xnorkit's packed file without our library",
            functools.partial(build_packed_onnx, kernels=False),
            expected_binary,
            tolerance=1e-4,
        ),  # fmt: skip
        Side("ort_float", "onnxruntime float", functools.partial(build_file, float_file), tolerance=1e-3),
        Side("ort_int8", "onnxruntime int8", functools.partial(build_file, int8_file), tolerance=0.5),
        Side("torch_float", "torch float", build_torch_float, tolerance=1e-4),
    )
