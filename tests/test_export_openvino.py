"""Format "standard" in a runtime that knows no functions: OpenVINO."""

import numpy as np
import pytest
import torch
from onnx_runs import export_standard
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
