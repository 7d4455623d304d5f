"""Int8Conv and Int8Linear in onnxruntime: by kernels and bodies, against whole numbers, and what they refuse."""

import re

import numpy as np
import onnx
import pytest
import torch
from ort_models import Net, run, session
from torch import Tensor
from torch.nn import functional as F

from quantize.export.functions import function
from quantize.kernels import cpu

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]

STEP, ZERO = 0.125, 100.0  # a power of two: x is a whole number of steps, or halfway between two

# filters (out, in, kh, kw), image (N, H, W), then how the window moves.
CONVS = {
    "first layer": ((192, 3, 5, 5), (2, 12, 11), {"pads": [2, 2, 2, 2]}),
    "wide rows": ((33, 3, 3, 3), (1, 4, 300), {"pads": [1, 1, 1, 1]}),
    "strides": ((20, 4, 7, 7), (2, 15, 17), {"strides": [2, 3], "pads": [3, 3, 3, 3]}),
    "dilations": ((16, 5, 3, 2), (2, 9, 10), {"dilations": [2, 3], "pads": [2, 1, 0, 3]}),
    "one channel": ((20, 1, 5, 5), (3, 9, 9), {}),
    "pixels": ((10, 192, 1, 1), (2, 8, 8), {}),
    "a pixel": ((10, 7, 1, 1), (3, 1, 1), {}),
    "strided pixels": ((17, 9, 1, 1), (2, 5, 6), {"strides": [2, 2]}),
    "few": ((2, 2, 2, 2), (1, 2, 2), {}),
    "column": ((5, 6, 3, 1), (2, 7, 4), {"pads": [1, 0, 1, 0]}),
}
ENDS = ("", "Relu", "ToBits")


class Layer:
    """Random weights, and the inputs of a node."""

    def __init__(self, *shape: int):
        out = shape[0]
        self.weight = torch.randint(-127, 128, shape).double()
        rows = self.weight if len(shape) == 2 else self.weight.permute(0, 2, 3, 1).flatten(1)
        self.tensors = {
            "numbers": (rows + 128).to(torch.uint8),
            "scale": torch.rand(out) / 1000 + 0.0001,
            "bias": torch.randn(out),
            "x_inverse": torch.tensor([1 / STEP]),
            "x_zero": torch.tensor([ZERO]),
        }
        self.output = {"output_threshold": torch.randn(out), "output_turn": torch.randint(0, 2, (out,)) * 2.0 - 1}

    def finish(self, sums: Tensor, name: str) -> Tensor:
        """What the node makes of exact sums: in float32, as the packed layers do."""
        view = (1, -1, 1, 1)[: sums.dim()]
        y = sums.float() * self.tensors["scale"].view(view) + self.tensors["bias"].view(view)
        if name.endswith("Relu"):
            return y.relu()
        if name.endswith("ToBits"):
            turn, threshold = (self.output[f"output_{key}"].view(view) for key in ("turn", "threshold"))
            return torch.where(y * turn >= threshold, 1.0, -1.0)
        return y


def numbers_of(x: Tensor) -> Tensor:
    """q - zero in float64: rounded half to even, in 0 to 255."""
    return (x.double() / STEP).round().add(ZERO).clamp(0, 255) - ZERO


def images(*shape: int) -> Tensor:
    """Values in quarters of a step, beyond both ends of what 8 bits hold."""
    return torch.randint(-4 * 120, 4 * 180, shape) * STEP / 4


def conv_model(name: str, layer: Layer, window: dict, **changed) -> onnx.ModelProto:
    out, channels, *kernel = layer.weight.shape
    attributes = {"kernel_shape": kernel, "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    attributes |= {**window, "filter_shape": [out, *kernel, channels]}
    tensors = layer.tensors | (layer.output if name.endswith("ToBits") else {})
    return node_model(name, tensors, attributes, channels, out, changed)


def linear_model(name: str, layer: Layer, **changed) -> onnx.ModelProto:
    return node_model(name, layer.tensors, {"filter_shape": list(layer.weight.shape)}, None, 0, changed)


def node_model(name, tensors, attributes, channels, out, changed) -> onnx.ModelProto:
    """One node with its body; ``changed`` replaces tensors and attributes, and None removes one."""
    tensors = tensors | {key: value for key, value in changed.items() if isinstance(value, Tensor)}
    attributes = attributes | {key: value for key, value in changed.items() if not isinstance(value, Tensor)}
    net = Net(channels)
    if channels is None:
        net.inputs["x"] = [None, None]
    y = net.node(name, "x", tensors, {key: value for key, value in attributes.items() if value is not None})
    bodies = [function(name)]
    if name.endswith("ToBits"):
        y = net.from_bits(y, out)
        bodies.append(function("BinaryConvFromBits"))
    return net.model(y, bodies)


def expected_conv(name: str, layer: Layer, x: Tensor, window: dict) -> Tensor:
    top, left, bottom, right = window.get("pads", [0] * 4)
    padded = F.pad(numbers_of(x), (left, right, top, bottom))
    sums = F.conv2d(padded, layer.weight, None, window.get("strides", 1), 0, window.get("dilations", 1))
    return layer.finish(sums, name)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "body"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("shape", CONVS)
def test_a_convolution(shape, end, kernels):
    filters, (batch, *size), window = CONVS[shape]
    layer, x, name = Layer(*filters), images(batch, filters[1], *size), f"Int8Conv{end}"
    y = run(session(conv_model(name, layer, window), kernels=kernels), x)
    torch.testing.assert_close(y, expected_conv(name, layer, x, window), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "body"])
@pytest.mark.parametrize("end", ["", "Relu"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 500, 10), (5, 33, 17), (2, 1, 1), (40, 64, 100)])
def test_a_linear_layer(rows, inputs, outputs, end, kernels):
    layer, x, name = Layer(outputs, inputs), images(rows, inputs), f"Int8Linear{end}"
    y = run(session(linear_model(name, layer), kernels=kernels), x)
    expected = layer.finish(numbers_of(x) @ layer.weight.T, name)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", cpu.available_kernels())
@pytest.mark.parametrize("shape", CONVS)
def test_every_kernel_and_two_threads(shape, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    filters, (batch, *size), window = CONVS[shape]
    layer, x = Layer(*filters), images(batch, filters[1], *size)
    for name in ("Int8Conv", "Int8ConvToBits"):
        expected = expected_conv(name, layer, x, window)
        for threads in (1, 2):
            y = run(session(conv_model(name, layer, window), threads=threads), x)
            torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_the_largest_sums_do_not_saturate(kernel, monkeypatch):
    """Pairs of 255 by 127 are over what 16 bits hold."""
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    layer = Layer(16, 300)
    layer.tensors |= {"numbers": torch.full((16, 300), 255, dtype=torch.uint8), "scale": torch.ones(16)}
    layer.tensors |= {"bias": torch.zeros(16), "x_zero": torch.zeros(1)}
    y = run(session(linear_model("Int8Linear", layer)), torch.full((2, 300), 1000.0))
    assert torch.equal(y, torch.full((2, 16), 300.0 * 255 * 127))


def test_the_kernel_ran_and_not_the_body(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "no such kernel")
    proto = linear_model("Int8Linear", Layer(3, 8))
    session(proto, kernels=False)
    with pytest.raises(Exception, match="kernel 'no such kernel' is not one this machine can run"):
        session(proto)


@pytest.mark.parametrize("name", ["Int8Conv", "Int8ConvToBits"])
def test_an_empty_batch(name):
    layer = Layer(4, 3, 2, 2)
    assert run(session(conv_model(name, layer, {})), torch.zeros(0, 3, 5, 5)).shape == (0, 4, 4, 4)
    assert run(session(linear_model("Int8Linear", Layer(4, 3))), torch.zeros(0, 3)).shape == (0, 4)


CONV_ERRORS = [
    ({"group": 3}, "group is 3; it must be 1"),
    ({"filter_shape": [6, 3, 2, 3]}, r"kernel_shape is \(3, 3\); filter_shape \(6, 3, 2, 3\) says otherwise"),
    ({"filter_shape": [7, 3, 3, 3]}, r"'numbers' has shape \(6, 27\); the attributes say \(7, 27\)"),
    ({"filter_shape": None}, "'filter_shape' is missing"),
    ({"scale": torch.ones(5)}, "'scale' has 5 values; the attributes say 6"),
    ({"bias": torch.ones(7)}, "'bias' has 7 values"),
    ({"x_inverse": torch.zeros(1)}, "x_inverse is 0; it must be over 0 and finite"),
    ({"x_inverse": torch.tensor([torch.inf])}, "x_inverse is inf"),
    ({"x_zero": torch.tensor([256.0])}, "x_zero is 256; it must be a whole number from 0 to 255"),
    ({"x_zero": torch.tensor([0.5])}, "x_zero is 0.5"),
    ({"numbers": torch.zeros(6, 27, dtype=torch.uint8)}, "'numbers' has a 0, which is -128"),
    ({"output_turn": torch.zeros(6)}, "'output_turn' has a value of 0"),
    ({"xnorkit_version": 9}, "the file needs version 9"),
]


@pytest.mark.parametrize(("change", "message"), CONV_ERRORS, ids=[message[:40] for _, message in CONV_ERRORS])
def test_a_wrong_convolution(change, message):
    with pytest.raises(Exception, match="ONNXRuntimeError") as error:
        session(conv_model("Int8ConvToBits", Layer(6, 3, 3, 3), {}, **change))
    assert "xnorkit: Int8ConvToBits node 'node0': " in str(error.value)
    assert re.search(message, str(error.value)), error.value


def test_wrong_inputs():
    conv, linear = (
        session(conv_model("Int8Conv", Layer(4, 3, 2, 2), {})),
        session(linear_model("Int8Linear", Layer(4, 3))),
    )
    with pytest.raises(Exception, match="this layer takes 3 channels"):
        run(linear, torch.zeros(2, 5))
    with pytest.raises(Exception, match="less than the 2 that the dilated kernel spans"):
        run(conv, torch.zeros(1, 3, 1, 5))


def test_one_channel_holds_no_bits():
    with pytest.raises(Exception, match="1 channel"):
        session(conv_model("Int8ConvToBits", Layer(1, 3, 2, 2), {}))


def test_steps_are_those_of_numpy():
    """Products with the inverse, rounded half to even, by the kernel as by the body: any bits of a float."""
    bits = torch.randint(-(2**31), 2**31 - 1, (400, 8), dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32).nan_to_num(nan=0.0)
    layer = Layer(3, 8)
    layer.tensors["x_inverse"] = torch.tensor([3.7])
    with np.errstate(over="ignore"):
        steps = np.clip(np.rint(x.numpy() * np.float32(3.7)) + np.float32(ZERO), 0, 255) - ZERO
    expected = layer.finish(torch.from_numpy(steps).double() @ layer.weight.T, "Int8Linear")
    for kernels in (True, False):
        y = run(session(linear_model("Int8Linear", layer), kernels=kernels), x)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
