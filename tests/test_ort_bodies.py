"""The kernels against the function bodies that a packed file carries: the same, node by node."""

import pytest
import torch
from onnx.reference import ReferenceEvaluator
from ort_models import OPERATORS, Net, run, session
from test_ort_ops import POOLS, problem

from quantize.export.functions import function
from quantize.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")


def with_bodies(net: Net, y: str):
    return net.model(y, [function(name) for name in sorted({node.op_type for node in net.nodes})])


def assert_same(model, *inputs):
    """Scales and biases of the bodies may be rounded in another place: 1e-6 of the largest value."""
    inputs = [x for x in inputs if x is not None]
    ours = run(session(model), *inputs)
    inlined = run(session(model, kernels=False), *inputs)
    torch.testing.assert_close(ours, inlined, rtol=0, atol=1e-6 * float(ours.abs().max()))
    feeds = dict(zip([value.name for value in model.graph.input], [x.numpy() for x in inputs], strict=True))
    assert torch.equal(ours, torch.from_numpy(ReferenceEvaluator(model).run(None, feeds)[0]))


@pytest.mark.parametrize("shape", ["2", "65", "groups", "uneven", "padding alone"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_convolutions(operator, shape):
    conv, x, input_scale = problem(operator, shape)
    net = Net(conv.channels)
    y = net.conv(operator, net.to_bits("x", conv.channels) if "FromBits" in operator else "x", conv)
    y = net.from_bits(y, len(conv.filters)) if "ToBits" in operator else y
    assert_same(with_bodies(net, y), x, input_scale)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_max_pool(pool):
    kernel, strides, pads, dilations, ceil_mode, size = pool
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    turn = torch.where(torch.rand(size[1]) > 0.5, 1.0, -1.0)
    net = Net(size[1])
    bits = net.to_bits("x", size[1])
    bits = net.node("BinaryMaxPool", bits, {"turn": turn}, attributes | {"ceil_mode": ceil_mode})
    assert_same(with_bodies(net, net.from_bits(bits, size[1])), torch.randn(size))
