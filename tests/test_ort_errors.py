"""Damaged files and wrong inputs: refused with a message, when the session is made or when it runs."""

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from ort_models import Net, around, random_conv, run, session

from quantize.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")

BITS = "BinaryConvFromBitsToBitsShuffle"
FLOAT = "BinaryConvScaled"


def model(operator: str, filters=(24, 6, 3, 3), group=4, shuffle=2) -> onnx.ModelProto:
    conv = random_conv(operator, filters, torch.Generator().manual_seed(0), group=group, shuffle=shuffle)
    return around(operator, conv)


def the_node(proto: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.op_type == operator)


def set_attribute(proto, operator, name, value) -> None:
    attributes = the_node(proto, operator).attribute
    kept = [a for a in attributes if a.name != name]
    del attributes[:]
    attributes.extend(kept + ([] if value is None else [helper.make_attribute(name, value)]))


def set_input(proto, operator, name, change) -> None:
    node = the_node(proto, operator)
    tensor = next(t for t in proto.graph.initializer if t.name == f"{node.name}.{name}")
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))


def refusal(proto: onnx.ModelProto) -> str:
    with pytest.raises(Exception, match="ONNXRuntimeError") as error:
        session(proto)
    return str(error.value)


def test_the_undamaged_models_run():
    run(session(model(BITS)), torch.randn(1, 24, 6, 6))
    run(session(model(FLOAT)), torch.randn(1, 24, 6, 6), torch.rand(1, 4, 4, 4))


HUGE = 2**62
ATTRIBUTES = [
    ("kernel_shape", [3, 1], r"kernel_shape is \(3, 1\); filter_shape \(24, 3, 3, 6\) says otherwise"),
    ("kernel_shape", [3], "'kernel_shape' has 1 values; it must have 2"),
    ("strides", [0, 1], "stride_h is 0; it must be between 1 and 2\\^40"),
    ("strides", [1, -1], "stride_w is -1"),
    ("strides", 1, "'strides' has 0 values; it must have 2"),
    ("pads", [0, -1, 0, 0], "pad_left is -1; it must be between 0"),
    ("pads", [0, 0, HUGE, 0], f"pad_bottom is {HUGE}"),
    ("pads", [0, 0], "'pads' has 2 values; it must have 4"),
    ("dilations", [1, 0], "dilation_w is 0"),
    ("dilations", [1.0, 1.0], "'dilations' has 0 values; it must have 2"),
    ("group", 0, "group is 0; it must be between 1"),
    ("group", -4, "group is -4"),
    ("group", 5, r"out_channels \(24\) must be multiples of groups \(5\)"),
    ("group", HUGE, f"group is {HUGE}"),
    ("group", 2**39, "group \\* channels a group is over 2\\^40"),
    ("group", [4], "'group' is missing or is not an integer"),
    ("filter_shape", [24, 3, 3, 0], "a size of filter_shape is 0"),
    ("filter_shape", [-24, 3, 3, 6], "a size of filter_shape is -24"),
    ("filter_shape", [24, 3, 3, 7], "filter_bits is 54; filter_shape .* says 63"),
    ("filter_shape", [24, 3, 3, 2**40], "filter_shape is over 2\\^40"),
    ("filter_shape", [24, 3, 3], "'filter_shape' has 3 values; it must have 4"),
    ("filter_shape", [48, 3, 3, 6], r"'scale' has 24 values; the attributes say 48"),
    ("filter_bits", [53], "filter_bits is 53"),
    ("filter_bits", [54, 54], "'filter_bits' has 2 values; it must have 1"),
    ("size_hint", [-1, 8], "a size of size_hint is -1"),
    ("size_hint", [2**30, 2**30], "size_hint is over 2\\^40"),
    ("size_hint", [8], "'size_hint' has 1 values; it must have 2"),
    ("shuffle", 5, "shuffle is 5; it must divide the 24 output channels"),
    ("shuffle", 0, "shuffle is 0; it must be between 1"),
    ("shuffle", None, "'shuffle' is missing"),
    ("xnorkit_version", 4, "the file needs version 4 of xnorkit's operators and this library has version 3"),
    ("xnorkit_version", -1, "the file needs version -1"),
    *(
        (name, None, f"'{name}' is missing")
        for name in ("kernel_shape", "pads", "group", "filter_shape", "filter_bits")
    ),
]


@pytest.mark.parametrize(("name", "value", "message"), ATTRIBUTES)
def test_a_wrong_attribute(name, value, message):
    proto = model(BITS)
    set_attribute(proto, BITS, name, value)
    text = refusal(proto)
    assert f"xnorkit: {BITS} node 'node1': " in text
    assert re.search(message, text), text


def test_a_filter_that_is_too_large_for_its_sums():
    proto = model(BITS, group=1)
    set_attribute(proto, BITS, "filter_shape", [24, 3, 3, 2**30])
    set_attribute(proto, BITS, "filter_bits", [9 * 2**30])
    assert "sums of more than 2^31 - 1 are not supported" in refusal(proto)


def wide(a):
    return np.concatenate([a, a], axis=-1)


def first_is(value):
    def change(a):
        a.flat[0] = value
        return a

    return change


def tail_bit(a):
    a[3, -1] |= 0x80
    return a


INPUTS = [
    (BITS, "weight_bits", wide, r"'weight_bits' has shape \(24, 14\); the attributes say \(24, 7\)"),
    (BITS, "weight_bits", lambda a: a[:5], r"'weight_bits' has shape \(5, 7\)"),
    (BITS, "weight_bits", lambda a: a[:, :0], r"'weight_bits' has shape \(24, 0\)"),
    (BITS, "weight_bits", lambda a: a.ravel(), r"'weight_bits' has shape \(168\); it must have 2 dimensions"),
    (BITS, "weight_bits", tail_bit, "filter 3 of 'weight_bits' has bits set past its end"),
    (BITS, "scale", lambda a: a[1:], "'scale' has 23 values; the attributes say 24"),
    (BITS, "scale", lambda a: a[None], r"'scale' has shape \(1, 24\); it must have 1 dimensions"),
    (BITS, "bias", wide, "'bias' has 48 values"),
    (BITS, "bias", lambda a: a[0], r"'bias' has shape \(\)"),
    (BITS, "output_threshold", wide, "'output_threshold' has 48 values"),
    (BITS, "output_turn", first_is(0), "'output_turn' has a value of 0; every one must be 1 or -1"),
    (BITS, "output_turn", first_is(np.nan), "'output_turn' has a value of nan"),
    (FLOAT, "threshold", wide, "'threshold' has 48 values; the attributes say 24"),
    (FLOAT, "turn", first_is(2), "'turn' has a value of 2"),
]


@pytest.mark.parametrize(("operator", "name", "change", "message"), INPUTS)
def test_a_wrong_initializer(operator, name, change, message):
    proto = model(operator)
    set_input(proto, operator, name, change)
    text = refusal(proto)
    assert re.search(message, text), text


@pytest.mark.parametrize("name", ["weight_bits", "scale", "bias", "output_threshold", "output_turn"])
def test_an_initializer_that_is_an_input_of_the_model(name):
    """One that a caller may replace, so that nothing can be prepared."""
    proto = model(BITS)
    tensor = next(t for t in proto.graph.initializer if t.name == f"node1.{name}")
    proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert f"'{name}' is computed or fed; it must be an initializer of the file" in refusal(proto)


def test_an_initializer_of_another_type():
    proto = model(BITS)
    set_input(proto, BITS, "weight_bits", lambda a: a.astype(np.int8))
    assert "tensor(int8)" in refusal(proto)


def test_an_input_too_few_and_one_too_many():
    for change in (lambda inputs: inputs.pop(), lambda inputs: inputs.append("node1.bias")):
        proto = model(BITS)
        change(the_node(proto, BITS).input)
        assert "not in range [min=6, max=6]" in refusal(proto)


def test_one_channel_holds_no_bits():
    assert "the output has 1 channel; bits need a tensor of at least 2 channels" in refusal(
        model("BinaryConvToBits", (1, 6, 3, 3), group=1, shuffle=1)
    )
    proto = model("BinaryConvFromBits", (4, 1, 3, 3), group=1, shuffle=1)
    assert "1 channel; bits need" in refusal(proto)


POOL = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0] * 4, "dilations": [1, 1], "ceil_mode": 0}


def pool_model(turn=None, **attributes) -> onnx.ModelProto:
    net = Net(4)
    turn = torch.ones(4) if turn is None else turn
    bits = net.node("BinaryMaxPool", net.to_bits("x", 4), {"turn": turn}, POOL | attributes)
    return net.model(net.from_bits(bits, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel_shape": [0, 2]}, "kernel_h is 0"),
        ({"strides": [1, -2]}, "stride_w is -2"),
        ({"dilations": [HUGE, 1]}, f"dilation_h is {HUGE}"),
        ({"pads": [0, 0, 0, -1]}, "pad_right is -1"),
        ({"pads": [0, 0]}, "'pads' has 2 values; it must have 4"),
        ({"pads": [2, 0, 0, 0]}, "a padding is 2; it must be less than the 2 that a window spans"),
        ({"pads": [0, 0, 0, 2**31], "dilations": [1, 4]}, "less than the 5 that a window spans"),
        ({"ceil_mode": [1]}, "'ceil_mode' is missing or is not an integer"),
        ({"turn": torch.ones(1)}, "turn has 1 channel"),
        ({"turn": torch.zeros(4)}, "'turn' has a value of 0"),
        ({"turn": torch.ones(2, 2)}, r"'turn' has shape (2, 2); it must have 1 dimensions"),
        ({"xnorkit_version": 4}, "the file needs version 4"),
    ],
)
def test_a_wrong_max_pool(change, message):
    assert message in refusal(pool_model(**change))


def failure(one, *inputs) -> str:
    with pytest.raises(Exception, match="ONNXRuntimeError") as error:
        run(one, *inputs)
    return str(error.value)


def any_input(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The inputs may have any shape."""
    for value in proto.graph.input:
        value.type.tensor_type.ClearField("shape")
    return proto


def test_a_wrong_input_at_run_time():
    one = session(any_input(model(FLOAT)))
    x, k = torch.randn(1, 24, 6, 6), torch.rand(1, 4, 4, 4)
    run(one, x, k)
    assert "x has shape (1, 5, 6, 6); this layer takes 24 channels" in failure(one, torch.randn(1, 5, 6, 6), k)
    assert "'x' has shape (1, 24, 6); it must be (N, C, H, W)" in failure(one, torch.randn(1, 24, 6), k)
    assert "the padded input height is 2, less than the 3" in failure(one, torch.randn(1, 24, 2, 6), k)
    assert "height is 0" in failure(one, torch.randn(1, 24, 0, 6), k)
    assert "input_scale has shape (1, 4, 4, 5); it must be (1, 4, 4, 4)" in failure(one, x, torch.rand(1, 4, 4, 5))
    assert "'input_scale' has shape (4, 4, 4); it must be (N, C, H, W)" in failure(one, x, k[0])


def test_a_wrong_input_of_the_max_pool():
    net = Net(None)
    one = session(any_input(net.model(net.node("BinaryMaxPool", "x", {"turn": torch.ones(4)}, POOL))))
    assert "x has shape (1, 5, 6, 6); this layer takes 4 channels" in failure(one, torch.randn(1, 5, 6, 6))
    assert "the padded input width is 1, less than the 2" in failure(one, torch.randn(1, 4, 6, 1))
    assert "it must be (N, C, H, W)" in failure(one, torch.randn(4))


def test_a_window_in_the_padding():
    one = session(pool_model(pads=[2, 0, 2, 0], dilations=[4, 1]))
    assert "window 0 of the output height lies in the padding" in failure(one, torch.randn(1, 4, 2, 6))


@pytest.mark.parametrize("channels", [2, 3, 64, 65])
def test_floats_are_not_taken_for_bits(channels):
    conv, pool = Net(channels), Net(channels)
    layer = random_conv("BinaryConvFromBits", (8, channels, 1, 1), torch.Generator())
    nets = {conv: conv.conv("BinaryConvFromBits", "x", layer)}
    nets[pool] = pool.node("BinaryMaxPool", "x", {"turn": torch.ones(channels)}, POOL)
    for net, y in nets.items():
        message = failure(session(net.model(y)), torch.ones(1, channels, 4, 4))
        assert "the input 'x' is not bits of an xnorkit node" in message


@pytest.mark.parametrize("channels", [3, 64, 65])
def test_bits_are_not_taken_for_floats(channels):
    net = Net(channels)
    layer = random_conv("BinaryConv", (8, channels, 1, 1), torch.Generator())
    one = session(net.model(net.conv("BinaryConv", net.to_bits("x", channels), layer)))
    assert "'x' is bits of an xnorkit node; this node takes floats" in failure(one, torch.ones(2, channels, 4, 4))


def test_bits_taken_for_floats_are_seen():
    net = Net(64)
    y = session(net.model(net.to_bits("x", 64)))
    assert run(y, torch.randn(2, 64, 4, 4)).isnan().any()


def test_an_unknown_kernel(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "nonsense")
    assert "kernel 'nonsense' is not one this machine can run" in refusal(model(BITS))
