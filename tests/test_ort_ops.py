"""The operators that our library brings into onnxruntime, against float torch operators."""

import threading

import pytest
import torch
from onnx import helper
from ort_models import OPERATORS, Conv, Net, around, expected, per_channel, random_conv, run, session
from torch.nn import functional as F

from quantize.kernels import cpu

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]

# filters (out, channels a group, kh, kw), options, input (n, h, w)
SHAPES = {
    "2": ((2, 2, 3, 3), {"pads": (1, 1, 1, 1)}, (3, 5, 6)),
    "63": ((65, 63, 3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}, (1, 9, 8)),
    "64": ((64, 64, 3, 3), {"pads": (1, 1, 1, 1)}, (3, 7, 9)),
    "65": ((3, 65, 1, 1), {}, (3, 4, 5)),
    "192": ((192, 192, 3, 3), {"pads": (1, 1, 1, 1)}, (1, 8, 8)),
    "groups": ((128, 16, 3, 3), {"group": 4, "pads": (1, 1, 1, 1)}, (3, 6, 7)),
    "depthwise": ((20, 1, 5, 5), {"group": 20, "pads": (2, 2, 2, 2)}, (1, 6, 7)),
    "uneven": ((36, 9, 2, 5), {"group": 3, "strides": (1, 3), "pads": (0, 3, 1, 2), "dilations": (3, 1)}, (3, 8, 9)),
    "padding alone": ((16, 64, 3, 3), {"pads": (5, 5, 5, 5)}, (1, 3, 2)),
}
SHUFFLES = {2: 2, 65: 5, 64: 4, 3: 3, 192: 8, 128: 16, 20: 20, 36: 4, 16: 2}  # by output channels


def problem(operator: str, shape: str, seed=0) -> tuple[Conv, torch.Tensor, torch.Tensor | None]:
    """A layer, its input (with values at the thresholds), and its input scale or None."""
    filters, options, (batch, height, width) = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    conv = random_conv(operator, filters, generator, **options)
    conv.shuffle = SHUFFLES[filters[0]] if "Shuffle" in operator else 1
    x = torch.randint(-3, 4, (batch, conv.channels, height, width), generator=generator).float()
    if "FromBits" in operator:
        x = torch.where(x >= 0, 1.0, -1.0)
    if "Scaled" not in operator:
        return conv, x, None
    size = expected("BinaryConvScaled", conv, x).shape
    return conv, x, torch.rand((size[0], conv.group, *size[2:]), generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_node_computes_its_formula(operator, shape):
    conv, x, input_scale = problem(operator, shape)
    y = run(session(around(operator, conv)), x, input_scale)
    assert torch.equal(y, expected(operator, conv, x, input_scale))


def test_all_operators_are_tested():
    assert len(OPERATORS) == len(set(OPERATORS)) == 16


@pytest.mark.parametrize("kernel", cpu.available_kernels())
@pytest.mark.parametrize("operator", ["BinaryConvRelu", "BinaryConvFromBitsToBitsShuffle"])
def test_every_kernel(operator, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    conv, x, _ = problem(operator, "64")
    assert torch.equal(run(session(around(operator, conv)), x), expected(operator, conv, x))
    assert cpu.last_kernel() == kernel


@pytest.mark.parametrize("hint", [(56, 56), (1, 1), (0, 0)])
def test_the_size_hint_changes_no_result(hint):
    conv, x, _ = problem("BinaryConv", "64")
    model = around("BinaryConv", conv)
    attribute = next(a for a in model.graph.node[0].attribute if a.name == "size_hint")
    attribute.ints[:] = hint
    assert torch.equal(run(session(model), x), expected("BinaryConv", conv, x))


@pytest.mark.parametrize("name", ["size_hint", "xnorkit_version"])
def test_an_attribute_that_may_be_left_out(name):
    conv, x, _ = problem("BinaryConv", "64")
    model = around("BinaryConv", conv)
    attributes = model.graph.node[0].attribute
    attributes.remove(next(a for a in attributes if a.name == name))
    assert torch.equal(run(session(model), x), expected("BinaryConv", conv, x))


def test_special_values():
    conv, x, _ = problem("BinaryConv", "64")
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([0.0, -0.0, nan, inf, -inf])
    x = values[torch.arange(x.numel()) % 5].view(x.shape)
    conv.inputs["threshold"] = values[torch.arange(64) % 5]
    assert torch.equal(run(session(around("BinaryConv", conv)), x), expected("BinaryConv", conv, x))


# kernel, strides, pads, dilations, ceil_mode, input (n, c, h, w)
POOLS = [
    ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), 0, (3, 64, 8, 8)),
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 0, (1, 192, 9, 7)),
    ((3, 3), (2, 2), (0, 0, 0, 0), (1, 1), 1, (1, 65, 8, 6)),
    ((2, 3), (3, 2), (0, 1, 1, 0), (1, 2), 1, (3, 2, 8, 9)),
    ((2, 2), (3, 3), (1, 1, 1, 1), (1, 1), 1, (1, 63, 5, 5)),  # a last window would start behind the input
    ((1, 1), (2, 3), (0, 0, 0, 0), (1, 1), 1, (1, 3, 5, 5)),
]


@pytest.mark.parametrize(("kernel", "strides", "pads", "dilations", "ceil_mode", "size"), POOLS)
def test_max_pool_is_that_of_onnxruntime(kernel, strides, pads, dilations, ceil_mode, size):
    x = torch.where(torch.rand(size) > 0.7, 1.0, -1.0)
    turn = torch.where(torch.rand(size[1]) > 0.5, 1.0, -1.0)
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    attributes["ceil_mode"] = ceil_mode
    net, standard = Net(size[1]), Net(size[1])
    bits = net.node("BinaryMaxPool", net.to_bits("x", size[1]), {"turn": turn}, attributes)
    standard.nodes.append(helper.make_node("MaxPool", ["x"], ["y"], **attributes))
    largest = run(session(standard.model("y"), kernels=False), x * per_channel(turn))
    assert torch.equal(run(session(net.model(net.from_bits(bits, size[1]))), x), largest * per_channel(turn))


@pytest.mark.parametrize("size", [(1, 64, 9, 9), (3, 64, 9, 9)])
def test_bits_flow_through_many_nodes(size):
    """Convolution, pooling with turned channels, shuffle, convolution."""
    first, _, _ = problem("BinaryConvToBitsShuffle", "64")
    second, _, _ = problem("BinaryConvFromBitsRelu", "64", seed=1)
    turn = first.inputs["output_turn"]
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4, "dilations": [1, 1], "ceil_mode": 0}
    x = torch.randn(size)
    net = Net(64)
    bits = net.conv("BinaryConvToBitsShuffle", "x", first)
    bits = net.node("BinaryMaxPool", bits, {"turn": turn}, pool)
    y = run(session(net.model(net.conv("BinaryConvFromBitsRelu", bits, second))), x)
    middle = expected("BinaryConvToBitsShuffle", first, x) * per_channel(turn)
    middle = F.max_pool2d(middle, 2) * per_channel(turn)
    assert torch.equal(y, expected("BinaryConvFromBitsRelu", second, middle))


def test_one_session_takes_any_size_and_an_empty_batch():
    conv, _, _ = problem("BinaryConvToBitsShuffle", "64")
    one = session(around("BinaryConvToBitsShuffle", conv))
    for size in [(2, 64, 4, 4), (1, 64, 20, 3), (4, 64, 1, 1), (1, 64, 30, 40)]:
        x = torch.randn(size)
        assert torch.equal(run(one, x), expected("BinaryConvToBitsShuffle", conv, x))
    assert run(one, torch.empty(0, 64, 5, 6)).shape == (0, 64, 5, 6)
    scaled, x, input_scale = problem("BinaryConvScaled", "64")
    y = run(session(around("BinaryConvScaled", scaled)), x[:0], input_scale[:0])
    assert y.shape == (0, 64, 7, 9)


@pytest.mark.parametrize("operator", ["BinaryConvScaled", "BinaryConvFromBitsToBitsShuffle"])
def test_threads_of_onnxruntime_change_no_result(operator):
    conv, x, input_scale = problem(operator, "64")
    model = around(operator, conv)
    for threads in (1, 2, 4):
        y = run(session(model, threads=threads), x, input_scale)
        assert torch.equal(y, expected(operator, conv, x, input_scale))


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_at_the_same_time(threads):
    conv, _, _ = problem("BinaryConvToBitsShuffle", "64")
    one = session(around("BinaryConvToBitsShuffle", conv), threads=threads)
    inputs = [torch.randn(1 + i % 3, 64, 9, 5 + i) for i in range(6)]
    wrong = []

    def work(x):
        reference = expected("BinaryConvToBitsShuffle", conv, x)
        wrong.extend(i for i in range(10) if not torch.equal(run(one, x), reference))

    workers = [threading.Thread(target=work, args=(x,)) for x in inputs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
