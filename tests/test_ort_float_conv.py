"""FloatConvToBits in onnxruntime: by kernels and body, against whole numbers and torch, and what it refuses."""

import re

import onnx
import pytest
import torch
from onnx import helper
from ort_models import Net, run, session
from torch import Tensor
from torch.nn import functional as F

from quantize.export.functions import function
from quantize.kernels import cpu

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]

# filters (out, in, kh, kw), image (N, H, W), then how the window moves.
CONVS = {
    "first layer": ((192, 3, 5, 5), (2, 12, 11), {"pads": [2, 2, 2, 2]}),
    "wide rows": ((33, 3, 3, 3), (1, 4, 300), {"pads": [1, 1, 1, 1]}),
    "strides": ((40, 4, 7, 7), (2, 15, 17), {"strides": [2, 3], "pads": [3, 3, 3, 3]}),
    "large": ((16, 2, 11, 11), (3, 13, 12), {"strides": [4, 4], "pads": [2, 2, 2, 2]}),
    "dilations": ((16, 4, 3, 2), (2, 9, 10), {"dilations": [2, 3], "pads": [2, 1, 0, 3]}),
    "dilated rows": ((17, 3, 3, 2), (2, 9, 10), {"dilations": [3, 1], "pads": [1, 0, 2, 0]}),
    "one channel": ((17, 1, 5, 5), (3, 9, 9), {}),
    "pixels": ((40, 4, 1, 1), (2, 7, 9), {}),
    "a pixel": ((10, 3, 1, 1), (3, 1, 1), {}),
    "strided pixels": ((17, 2, 1, 1), (1, 5, 6), {"strides": [2, 2]}),
    "few": ((2, 2, 2, 2), (1, 2, 2), {}),
    "column": ((5, 1, 3, 1), (2, 7, 4), {"pads": [1, 0, 1, 0]}),
    "row": ((65, 3, 1, 3), (3, 4, 7), {"pads": [0, 0, 0, 2]}),
    "padding alone": ((3, 2, 2, 2), (1, 3, 3), {"pads": [4, 0, 4, 4]}),
    "many channels": ((20, 70, 3, 3), (2, 5, 6), {"pads": [1, 1, 1, 1]}),
}


class Layer:
    """Filters of whole numbers, whose sums with whole numbers are exact, and thresholds that some of them meet."""

    def __init__(self, *shape: int):
        out = shape[0]
        self.weight = torch.randint(-9, 10, shape).float()
        self.tensors = {
            "weight": self.weight,
            "bias": torch.randint(-50, 50, (out,)).float(),
            "output_threshold": torch.randint(-60, 60, (out,)).float(),
            "output_turn": torch.randint(0, 2, (out,)) * 2.0 - 1,
        }

    def expected(self, x: Tensor, window: dict) -> Tensor:
        top, left, bottom, right = window.get("pads", [0] * 4)
        padded, bias = F.pad(x.double(), (left, right, top, bottom)), self.tensors["bias"].double()
        y = F.conv2d(padded, self.weight.double(), bias, window.get("strides", 1), 0, window.get("dilations", 1))
        turn, threshold = (self.tensors[f"output_{key}"].view(1, -1, 1, 1) for key in ("turn", "threshold"))
        return torch.where(y * turn >= threshold, 1.0, -1.0)


def images(*shape: int) -> Tensor:
    return torch.randint(-20, 21, shape).float()


def model(layer: Layer, window: dict, **changed) -> onnx.ModelProto:
    """The node between floats, with its body; ``changed`` replaces tensors and attributes, and None removes one."""
    out, channels, *kernel = layer.weight.shape
    attributes = {"kernel_shape": kernel, "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, **window}
    tensors = layer.tensors | {key: value for key, value in changed.items() if isinstance(value, Tensor)}
    attributes |= {key: value for key, value in changed.items() if not isinstance(value, Tensor)}
    net = Net(channels)
    given = {key: value for key, value in attributes.items() if value is not None}
    y = net.from_bits(net.node("FloatConvToBits", "x", tensors, given), out)
    return net.model(y, [function("FloatConvToBits"), function("BinaryConvFromBits")])


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "body"])
@pytest.mark.parametrize("shape", CONVS)
def test_a_convolution(shape, kernels):
    filters, (batch, *size), window = CONVS[shape]
    layer, x = Layer(*filters), images(batch, filters[1], *size)
    assert torch.equal(run(session(model(layer, window), kernels=kernels), x), layer.expected(x, window))


@pytest.mark.parametrize("kernel", cpu.available_kernels())
@pytest.mark.parametrize("shape", CONVS)
def test_every_kernel_and_two_threads(shape, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    filters, (batch, *size), window = CONVS[shape]
    layer, x = Layer(*filters), images(batch, filters[1], *size)
    for threads in (1, 2):
        assert torch.equal(run(session(model(layer, window), threads=threads), x), layer.expected(x, window))


@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_fractions(kernel, monkeypatch):
    """Of sums that are rounded the signs are right wherever rounding cannot move them."""
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    layer, x, window = Layer(40, 3, 5, 5), torch.randn(2, 3, 20, 21), {"pads": [2, 2, 2, 2]}
    layer.weight.copy_(torch.randn(layer.weight.shape))
    layer.tensors["output_threshold"] = torch.randn(40)
    sums = F.conv2d(x.double(), layer.weight.double(), layer.tensors["bias"].double(), 1, 2)
    turn, threshold = (layer.tensors[f"output_{key}"].view(1, -1, 1, 1) for key in ("turn", "threshold"))
    clear = (sums * turn - threshold).abs() > 1e-4
    assert clear.double().mean() > 0.99
    for kernels in (True, False):
        y = run(session(model(layer, window), kernels=kernels), x)
        assert torch.equal(y[clear], layer.expected(x, window)[clear])


def test_values_that_are_no_numbers():
    """A NaN has bit 0, whichever way it is compared, as in the body."""
    layer, x = Layer(4, 3, 1, 1), images(1, 3, 2, 5)
    layer.weight.fill_(1.0)
    layer.tensors["output_turn"] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    x[0, :, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    found = run(session(model(layer, {})), x)
    assert torch.equal(found, run(session(model(layer, {}), kernels=False), x))
    assert torch.equal(found[0, :, 0, :3].T, torch.tensor([[-1.0] * 4, [1, -1, 1, -1], [-1, 1, -1, 1]]))


def test_a_batch_of_nothing():
    assert run(session(model(Layer(4, 3, 2, 2), {})), torch.zeros(0, 3, 5, 5)).shape == (0, 4, 4, 4)


def test_the_kernel_ran_and_not_the_body(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "no such kernel")
    net = Net(3)
    layer = Layer(2, 3, 1, 1)
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    proto = net.model(net.node("FloatConvToBits", "x", layer.tensors, window), [function("FloatConvToBits")])
    session(proto, kernels=False)
    with pytest.raises(Exception, match="kernel 'no such kernel' is not one this machine can run"):
        session(proto)


ERRORS = [
    ({"group": 3}, "group is 3; it must be 1"),
    ({"group": None}, "'group' is missing"),
    ({"strides": [0, 1]}, "stride_h is 0"),
    ({"pads": [0, 0]}, "'pads' has 2 values; it must have 4"),
    ({"kernel_shape": [2, 3]}, r"kernel_shape is \(2, 3\); weight \(6, 3, 3, 3\) says otherwise"),
    ({"weight": torch.ones(6, 3, 9)}, r"'weight' has shape \(6, 3, 9\); it must have 4 dimensions"),
    ({"weight": torch.ones(6, 0, 3, 3)}, "channels is 0"),
    ({"weight": torch.ones(0, 3, 3, 3)}, "out_channels is 0"),
    ({"bias": torch.ones(7)}, "'bias' has 7 values; the attributes say 6"),
    ({"output_threshold": torch.ones(5)}, "'output_threshold' has 5 values"),
    ({"output_turn": torch.zeros(6)}, "'output_turn' has a value of 0"),
    ({"xnorkit_version": 9}, "the file needs version 9"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_a_wrong_convolution(change, message):
    with pytest.raises(Exception, match="ONNXRuntimeError") as error:
        session(model(Layer(6, 3, 3, 3), {}, **change))
    assert "xnorkit: FloatConvToBits node 'node0': " in str(error.value)
    assert re.search(message, str(error.value)), error.value


def test_one_channel_holds_no_bits():
    with pytest.raises(Exception, match="1 channel"):
        session(model(Layer(1, 3, 2, 2), {}))


def test_a_weight_that_is_fed_is_refused():
    proto = model(Layer(4, 3, 2, 2), {})
    (weight,) = [tensor for tensor in proto.graph.initializer if tensor.name == "node0.weight"]
    proto.graph.initializer.remove(weight)
    proto.graph.input.append(helper.make_tensor_value_info("node0.weight", onnx.TensorProto.FLOAT, [4, 3, 2, 2]))
    with pytest.raises(Exception, match="'weight' is computed or fed; it must be an initializer"):
        session(proto)


def test_wrong_inputs():
    one = session(model(Layer(4, 3, 2, 2), {}))
    with pytest.raises(Exception, match="less than the 2 that the dilated kernel spans"):
        run(one, torch.zeros(1, 3, 1, 5))


def test_bits_are_no_input():
    net, layer = Net(3), Layer(4, 3, 1, 1)
    window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
    y = net.from_bits(net.node("FloatConvToBits", net.to_bits("x", 3), layer.tensors, window), 4)
    with pytest.raises(Exception, match="'x' is bits of an xnorkit node; this node takes floats"):
        run(session(net.model(y)), images(1, 3, 4, 4))
