"""Formats "standard" and "int8" in a runtime that knows no functions: OpenVINO."""

import numpy as np
import pytest
import torch
from converted_models import converted
from onnx_runs import export_standard
from runtimes.write import write
from torch import nn

import quantize

pytestmark = pytest.mark.core

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")


def openvino_outputs(path, x: torch.Tensor) -> np.ndarray:
    core = openvino.Core()
    # The plugin may compute in bfloat16 where the processor has it.
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(x.numpy())[0]


@pytest.mark.parametrize("name", ["xnor", "xnor:input_scale=True", "bireal", "bwn", "ternary", "dorefa"])
def test_a_network(name, tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        quantize.BinaryConv2d(16, 16, 3, padding=1, scheme=name, threshold=quantize.get_scheme(name).signed_input),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.ChannelShuffle(2),
        quantize.BinaryConv2d(16, 8, 3, stride=2, groups=2, scheme=name),
        nn.Flatten(),
        quantize.BinaryLinear(8 * 16, 5, scheme=name),
    ).eval()
    x = torch.randn(3, 3, 10, 10)
    export_standard(net, tmp_path / "net.onnx", x[:2])
    expected = net(x).detach().numpy()
    found = openvino_outputs(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_sign_of_zero(tmp_path):
    layer = quantize.BinaryConv2d(4, 3, 3, padding=1, bias=False, scheme="bnn")
    x = torch.randint(-1, 2, (2, 4, 5, 5)) / 1.0
    export_standard(layer, tmp_path / "net.onnx", x)
    signs = torch.where(x >= 0, 1.0, -1.0)
    weight = torch.where(layer.weight >= 0, 1.0, -1.0)
    expected = nn.functional.conv2d(signs, weight, padding=1).numpy()
    np.testing.assert_array_equal(openvino_outputs(tmp_path / "net.onnx", x), expected)


@pytest.mark.parametrize("format", ["standard", "int8"])
def test_a_network_whose_channels_are_shuffled(format, tmp_path):
    write(tmp_path, ["shuffles"], [format])
    images, expected = (np.load(tmp_path / f"shuffles_{format}.{which}.npy") for which in ("input", "output"))
    found = openvino_outputs(tmp_path / f"shuffles_{format}.onnx", torch.from_numpy(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# What follows a binary convolution to 32 channels; to bits, where a binary one follows, else to sums.
SHUFFLES = {
    "bits": [nn.ChannelShuffle(4), nn.Conv2d(32, 32, 1)],
    "a pool of bits": [nn.MaxPool2d(2), nn.ChannelShuffle(4), nn.Conv2d(32, 32, 1)],
    "8-bit sums": [nn.ReLU(), nn.ChannelShuffle(4)],
    "sums": [nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.ChannelShuffle(2)],
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_shuffled_integers_before_a_float_convolution(name, tmp_path):
    """OpenVINO moves the dequantization of the convolution's input past what lies before it."""
    layers = [nn.Conv2d(64, 32, 1, bias=False), *SHUFFLES[name], nn.Conv2d(32, 5, 1)]
    x = torch.randn(4, 64, 7, 6)
    prepared, _ = converted(nn.Sequential(*layers), x, keep_float=(str(len(layers) - 1),))
    quantize.export_onnx(prepared, tmp_path / "net.onnx", x, format="int8")
    expected = prepared(x).detach().numpy()
    found = openvino_outputs(tmp_path / "net.onnx", x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
