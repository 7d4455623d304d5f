"""export_onnx with a dynamic height and width: every format, in sizes that tracing did not see."""

import numpy as np
import onnx
import pytest
import torch
from converted_models import Blocks, spread_norms
from onnx_runs import runtimes
from torch import nn

import models
import quantize
from quantize.export.formats import FORMATS


def pooled(pool: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    """Bits and floats through poolings like ``pool``."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), pool, nn.Conv2d(16, 4, 3, padding=1), pool]
    x = torch.randn(2, 8, 10, 9)
    prepared = quantize.prepare(nn.Sequential(*layers), "xnor", keep_float=())
    spread_norms(prepared, x)
    return prepared, x


def network() -> tuple[nn.Module, torch.Tensor]:
    """Pooling with flipped channels, a shuffle, bits and floats between layers; images of one height and width."""
    net = nn.Sequential(Blocks(nn.MaxPool2d(3, 2, 1), nn.ChannelShuffle(4), groups=2), nn.Conv2d(32, 8, 3, 2))
    x = torch.randn(2, 64, 10, 10)
    torch.manual_seed(0)
    prepared = quantize.prepare(nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten()), "xnor", keep_float=())
    spread_norms(prepared, x)
    return prepared, x


@pytest.mark.parametrize("format", FORMATS)
def test_other_heights_and_widths(format, tmp_path):
    net, x = network()
    report = quantize.export_onnx(net, tmp_path / "net.onnx", x, format=format, dynamic_size=True)
    assert report.parity.difference <= 1e-5
    (value,) = onnx.load(tmp_path / "net.onnx").graph.input
    names = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
    assert names == ["batch", 64, "height", "width"]
    for size in ((7, 12), (13, 9)):
        images = torch.randn(3, 64, *size)
        expected = net(images).detach().numpy()
        for name, run in runtimes(format).items():
            found = run(tmp_path / "net.onnx", images)[0]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_a_network_of_one_size(tmp_path):
    net = models.create_model("lenet5_xnornet", in_chans=1)
    with pytest.raises(ValueError, match=r"\(3, 1, 56, 84\).* any batch and image size \(lenet5 takes images of 28x28"):
        quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 1, 28, 28), dynamic_size=True)
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_code_reads(tmp_path):
    class Halves(nn.Module):
        def forward(self, x):
            return x * 2 if x.shape[2] == 8 else x * 3

    with pytest.raises(RuntimeError, match="with a dynamic batch and size|for a height of 8 only"):
        quantize.export_onnx(Halves(), tmp_path / "net.onnx", torch.randn(2, 1, 8, 8), dynamic_size=True)


def test_no_images(tmp_path):
    with pytest.raises(
        ValueError, match=r"dynamic_size is for images \(N, C, H, W\); example_input is of shape \(2, 5\)"
    ):
        quantize.export_onnx(nn.Linear(5, 2), tmp_path / "net.onnx", torch.randn(2, 5), dynamic_size=True)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, 2, 1, ceil_mode=True), nn.MaxPool2d(1, 2, ceil_mode=True)], ids=str)
def test_a_last_window_behind_the_input_is_left_out(pool, format, tmp_path):
    net, x = pooled(pool)
    quantize.export_onnx(net, tmp_path / "net.onnx", x, format=format)
    expected = net(x).detach().numpy()
    for name, run in runtimes(format).items():
        found = run(tmp_path / "net.onnx", x)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_a_pooling_without_a_batch_that_counts_parts_of_windows(tmp_path):
    net, x = nn.Sequential(nn.Linear(7, 7), nn.MaxPool2d(2, ceil_mode=True)), torch.randn(2, 5, 7)
    quantize.export_onnx(net, tmp_path / "net.onnx", x)
    found = quantize.ort_session(tmp_path / "net.onnx").run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_pooling_of_bits_with_a_part_of_a_window_in_another_size(tmp_path):
    net, x = pooled(nn.MaxPool2d(3, 2, 1, ceil_mode=True))
    net = net[:-1]
    quantize.export_onnx(net, tmp_path / "net.onnx", x, dynamic_size=True)
    images = torch.randn(2, 8, 13, 8)
    found = quantize.ort_session(tmp_path / "net.onnx").run(None, {"input": images.numpy()})[0]
    expected = net(images).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
