"""Layers of a few bits in onnxruntime: by their kernels and by their bodies, against their formula in float64."""

import dataclasses
import functools
import math
import re

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from ort_models import Net, run, session
from torch import Tensor
from torch.nn import functional as F

from quantize import packing
from quantize.export.functions import function, level_name
from quantize.kernels import cpu

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]


@dataclasses.dataclass
class Problem:
    """Filters (out, channels / group, *kernel) of odd whole numbers of ``w_bits``; ``a_bits`` 0 means signs."""

    operation: str
    filters: Tensor
    w_bits: int
    a_bits: int
    window: dict
    x: Tensor

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        codes = ((self.filters + 2**self.w_bits - 1) / 2).to(torch.uint8)
        planes = [packing.bits_to_bytes((codes >> j & 1).bool().movedim(1, -1).flatten(1)) for j in range(self.w_bits)]
        scale, bias = torch.rand(len(self.filters), generator=generator), torch.randn(len(self.filters))
        return {"weight_bits": torch.cat(planes), "scale": scale + 0.1, "bias": bias}

    def model(self, **changed) -> onnx.ModelProto:
        """One node with its body; ``changed`` replaces attributes and tensors, None leaves an attribute out."""
        out, channels, *kernel = self.filters.shape
        linear = self.operation == "Linear"
        attributes = {
            "filter_shape": [out, channels] if linear else [out, *kernel, channels],
            "filter_bits": [channels * math.prod(kernel)],
            "bit_values": [2**j for j in range(self.w_bits)],
            **({"input_largest": 2**self.a_bits - 1} if self.a_bits else {}),
            **({} if linear else {"kernel_shape": kernel, **self.window}),
        }
        tensors = self.tensors | {name: changed.pop(name) for name in [*self.tensors] if name in changed}
        attributes = {name: value for name, value in (attributes | changed).items() if value is not None}
        name, net = level_name(self.operation, not self.a_bits), Net(None)
        net.inputs["x"] = [None] * self.x.dim()
        return net.model(net.node(name, "x", tensors, attributes), [function(name)])

    def expected(self) -> Tensor:
        """In float64, from the numbers that the input and the weight are."""
        x, filters = self.x, self.filters.double()
        largest = 2**self.a_bits - 1
        q = (x.clamp(0, 1) * largest).round() if self.a_bits else torch.where(x >= 0, 1.0, -1.0)
        scale, bias = (self.tensors[name].double() for name in ("scale", "bias"))
        if self.operation == "Linear":
            return q.double() @ filters.flatten(1).T * scale + bias
        y = self._transposed(q.double()) if self.operation == "ConvTranspose" else self._convolved(q.double())
        a_channel = (-1,) + (1,) * (y.dim() - 2)
        return y * scale.view(a_channel) + bias.view(a_channel)

    def _convolved(self, q: Tensor) -> Tensor:
        w, dimensions = self.window, q.dim() - 2
        before, after = w["pads"][:dimensions], w["pads"][dimensions:]
        padded = F.pad(q, [pad for both in zip(before[::-1], after[::-1], strict=True) for pad in both])
        operation = F.conv3d if dimensions == 3 else F.conv2d
        return operation(padded, self.filters.double(), None, w["strides"], 0, w["dilations"], w["group"])

    def _transposed(self, q: Tensor) -> Tensor:
        """Without padding, then less the padding at each end."""
        w, (top, left, bottom, right) = self.window, self.window["pads"]
        weight = self.filters.double().unflatten(0, (w["group"], -1)).transpose(1, 2).flatten(0, 1)
        whole = F.conv_transpose2d(q, weight, None, w["strides"], 0, 0, w["group"])
        size = [
            (n - 1) * s + k + more
            for n, s, k, more in zip(q.shape[2:], w["strides"], weight.shape[2:], w["output_padding"], strict=True)
        ]
        whole = F.pad(whole, (0, size[1] - whole.shape[3], 0, size[0] - whole.shape[2]))
        return whole[:, :, top : size[0] - bottom, left : size[1] - right]


def window(strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1, hint=(0, 0)) -> dict:
    names = ("strides", "pads", "dilations", "size_hint")
    lists = zip(names, (strides, pads, dilations, hint), strict=True)
    return {**{name: list(values) for name, values in lists}, "group": group}


def transposed_window(strides, pads=(0, 0, 0, 0), output_padding=(0, 0), group=1) -> dict:
    lists = {"strides": strides, "pads": pads, "output_padding": output_padding}
    return {**{name: list(values) for name, values in lists.items()}, "group": group}


def volume_window(strides=(1, 1, 1), pads=(0,) * 6, dilations=(1, 1, 1), group=1, hint=(0, 0, 0)) -> dict:
    return window(strides, pads, dilations, group, hint)


# operation, filters (out, channels / group, *kernel), window, input
SHAPES = {
    "conv": ("Conv", (12, 10, 3, 3), window(pads=(1, 1, 1, 1), hint=(9, 7)), (2, 10, 9, 7)),
    "no border": ("Conv", (9, 70, 3, 3), window(), (3, 70, 6, 5)),
    "groups": ("Conv", (18, 4, 3, 2), window((2, 2), (2, 1, 1, 3), (1, 2), 3), (2, 12, 9, 8)),
    "depthwise": ("Conv", (6, 1, 3, 3), window(pads=(1, 1, 1, 1), group=6), (1, 6, 5, 8)),
    "pixels": ("Conv", (33, 130, 1, 1), window(), (1, 130, 40, 33)),
    "padding alone": ("Conv", (5, 3, 2, 2), window((3, 3), (4, 4, 4, 4)), (1, 3, 1, 2)),
    "large": ("Conv", (4, 64, 3, 3), window(pads=(1, 1, 1, 1)), (1, 64, 37, 41)),
    "one channel": ("Conv", (3, 1, 2, 1), window(), (2, 1, 4, 5)),
    "up": ("ConvTranspose", (12, 5, 4, 4), transposed_window((2, 2), (1, 1, 1, 1), group=2), (2, 10, 5, 6)),
    "up, uneven": ("ConvTranspose", (5, 70, 3, 2), transposed_window((2, 3), (0, 1, 2, 0), (1, 2)), (1, 70, 4, 3)),
    "up, gaps": ("ConvTranspose", (4, 6, 2, 1), transposed_window((3, 2), (3, 0, 1, 0), (0, 1)), (2, 6, 7, 8)),
    "up, no stride": ("ConvTranspose", (4, 6, 3, 5), transposed_window((1, 1), (2, 3, 2, 4)), (2, 6, 7, 8)),
    "up, wide padding": ("ConvTranspose", (4, 6, 2, 2), transposed_window((1, 2), (3, 4, 2, 3)), (2, 6, 9, 9)),
    "up, large": ("ConvTranspose", (3, 8, 4, 4), transposed_window((2, 2), (1, 1, 1, 1)), (1, 8, 40, 45)),
    "volume": ("Conv3d", (12, 10, 3, 3, 3), volume_window(pads=(1,) * 6, hint=(4, 5, 6)), (2, 10, 4, 5, 6)),
    "volume, no border": ("Conv3d", (5, 66, 2, 3, 1), volume_window(), (1, 66, 3, 4, 2)),
    "volume, uneven": (
        "Conv3d",
        (6, 4, 3, 2, 3),
        volume_window((2, 1, 3), (0, 2, 1, 3, 0, 2), (2, 3, 1), 3),
        (2, 12, 6, 5, 7),
    ),
    "volume, slices between the taps": (
        "Conv3d",
        (3, 5, 2, 1, 2),
        volume_window((3, 1, 1), (4, 0, 1, 5, 0, 0), (2, 1, 1)),
        (1, 5, 7, 2, 3),
    ),
    "volume of one slice": ("Conv3d", (4, 64, 1, 1, 1), volume_window((2, 2, 2)), (2, 64, 1, 40, 35)),
    "row": ("Linear", (11, 70, 1, 1), {}, (1, 70)),
    "no rows": ("Linear", (11, 70, 1, 1), {}, (70,)),
    "tokens": ("Linear", (1100, 300, 1, 1), {}, (2, 3, 300)),
    "map": ("Linear", (7, 64, 1, 1), {}, (2, 3, 2, 64)),
}
BITS = [(1, 0), (3, 0), (1, 1), (1, 2), (2, 2), (1, 4), (4, 3)]  # of weights and inputs


def problem(shape: str, w_bits: int, a_bits: int) -> Problem:
    """Inputs lie on bounds of a level, on both sides of 0 and 1, and elsewhere."""
    operation, filters, options, size = SHAPES[shape]
    torch.manual_seed(0)
    largest = 2**w_bits - 1
    weights = torch.randint(0, largest + 1, filters).float() * 2 - largest
    x = torch.rand(size) * 1.4 - 0.2
    halves = torch.randint(-2, 4 * 2**a_bits, size).float() / (2 * max(1, 2**a_bits - 1))
    return Problem(operation, weights, w_bits, a_bits, options, torch.where(torch.rand(size) > 0.5, x, halves))


def assert_is(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("w_bits", "a_bits"), BITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_and_bodies_compute_the_formula(shape, w_bits, a_bits):
    one = problem(shape, w_bits, a_bits)
    model, expected = one.model(), one.expected()
    ours = run(session(model), one.x)
    assert_is(ours, expected)
    assert torch.equal(run(session(model, threads=2), one.x), ours)
    assert_is(run(session(model, kernels=False), one.x), expected)
    if one.operation != "ConvTranspose" or one.window["group"] == 1:  # the reference fails in its groups
        assert torch.equal(ours, torch.from_numpy(ReferenceEvaluator(model).run(None, {"x": one.x.numpy()})[0]))


@pytest.mark.parametrize("kernel", cpu.available_kernels())
@pytest.mark.parametrize("shape", ["conv", "groups", "up", "up, uneven", "tokens", "volume, uneven"])
def test_every_kernel(shape, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    one = problem(shape, 2, 2)
    assert_is(run(session(one.model()), one.x), one.expected())


@pytest.mark.parametrize("shape", ["conv", "volume", "up", "row"])
def test_the_kernel_ran_and_not_the_body(shape, monkeypatch):
    """The library takes part with its kernel alone, which cannot be had under that name."""
    monkeypatch.setenv("XNORKIT_KERNEL", "no such kernel")
    model = problem(shape, 1, 2).model()
    session(model, kernels=False)
    with pytest.raises(Exception, match="kernel 'no such kernel' is not one this machine can run"):
        session(model)


@pytest.mark.parametrize("shape", ["conv", "volume", "up", "row"])
def test_an_empty_batch(shape):
    one = problem(shape, 1, 2)
    found = run(session(one.model()), one.x[:0])
    assert found.shape == (0, *one.expected().shape[1:])


@pytest.mark.parametrize("a_bits", [1, 2, 4])
@pytest.mark.parametrize("shape", ["conv", "volume", "row"])
def test_what_is_no_number_is_nothing(shape, a_bits):
    """A NaN is 0, whatever its neighbours are, and infinities are the ends."""
    one = problem(shape, 1, a_bits)
    one.x.view(-1)[:6] = torch.tensor([math.nan, math.inf, -math.inf, math.nan, 1e30, -0.0])
    found = [run(session(one.model(), kernels=kernels), one.x) for kernels in (True, False)]
    one.x = one.x.nan_to_num(0.0, 1.0, 0.0)
    assert_is(found[0], one.expected())
    assert_is(found[1], one.expected())


def test_outputs_that_no_tap_reaches_are_scaled_too():
    """A scale that is not finite makes them NaN, as it does in the bodies."""
    one = problem("up, gaps", 1, 0)
    one.tensors["scale"][1] = math.inf
    model = one.model()
    found, body = (run(session(model, kernels=kernels), one.x) for kernels in (True, False))
    assert body[:, 1].isnan().any()
    torch.testing.assert_close(found, body, rtol=1e-6, atol=1e-5, equal_nan=True)


REFUSED = {
    "no shape": ("conv", {"filter_shape": None}, "filter_shape"),
    "a size of 0": ("conv", {"filter_shape": [0, 3, 3, 10]}, "a size of filter_shape is 0"),
    "other bits": ("conv", {"filter_bits": [91]}, "filter_bits is 91; filter_shape (12, 3, 3, 10) says 90"),
    "other kernel": ("conv", {"kernel_shape": [3, 2]}, "kernel_shape is (3, 2); filter_shape says (3, 3)"),
    "other outputs": ("row", {"filter_shape": [12, 70]}, "weight_bits"),
    "huge": ("row", {"filter_shape": [2**40, 2**40], "filter_bits": [2**40]}, "the size of the weight is over"),
    "groups": ("conv", {"group": 5}, "group is 5; it must divide the 12 outputs"),
    "no group": ("up", {"group": None}, "group"),
    "no planes": ("conv", {"bit_values": None}, "bit_values"),
    "other values": ("conv", {"bit_values": [1, 3]}, "bit_values is (1, 3); it must be 1, 2, 4 and 8"),
    "five planes": ("row", {"bit_values": [1, 2, 4, 8, 16]}, "bit_values is (1, 2, 4, 8, 16)"),
    "one plane": ("conv", {"bit_values": [1]}, "weight_bits"),
    "a largest of 2": ("row", {"input_largest": 2}, "input_largest is 2; it must be 1, 3, 7 or 15"),
    "no largest": ("up", {"input_largest": None}, "input_largest"),
    "output padding": (
        "up",
        {"output_padding": [2, 0]},
        "output_padding is 2; it must be 0 to less than the stride, 2",
    ),
    "no output padding": ("up", {"output_padding": None}, "output_padding"),
    "a stride of 0": ("up", {"strides": [0, 2]}, "a stride is 0"),
    "a huge stride": ("up", {"strides": [2**62, 2]}, "a stride is"),
    "a padding": ("up", {"pads": [0, -1, 0, 0]}, "a padding is -1"),
    "a dilation": ("conv", {"dilations": [0, 1]}, "dilation_h is 0"),
    "two sizes of a volume": ("volume", {"strides": [1, 1]}, "the attribute 'strides' has 2 values; it must have 3"),
    "a kernel of an image": ("volume", {"filter_shape": [12, 3, 3, 10]}, "'filter_shape' has 4 values; it must have 5"),
    "other depth": ("volume", {"kernel_shape": [2, 3, 3]}, "kernel_shape is (2, 3, 3); filter_shape says (3, 3, 3)"),
    "other bits of a volume": ("volume", {"filter_bits": [90]}, "filter_shape (12, 3, 3, 3, 10) says 270"),
    "a depth's stride": ("volume", {"strides": [0, 1, 1]}, "stride_d is 0"),
    "a depth's padding": ("volume", {"pads": [1, 1, 1, -1, 1, 1]}, "pad_back is -1"),
    "a huge dilation": ("volume", {"dilations": [2**62, 1, 1]}, "dilation_d is"),
    "bits past the end": (
        "row",
        {"weight_bits": torch.full((22, 9), 255, dtype=torch.uint8)},
        "filter 0 of 'weight_bits' has bits set past its end: the data is damaged",
    ),
    "scales": ("row", {"scale": torch.ones(10)}, "the input 'scale' has 10 values; the attributes say 11"),
    "a later version": ("up", {"xnorkit_version": 9}, "the file needs version 9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_nodes_are_refused(case):
    shape, changed, message = REFUSED[case]
    one = problem(shape, 2, 2)
    with pytest.raises(Exception, match=re.escape(message)) as error:
        session(one.model(**changed))
    assert "node 'node0'" in str(error.value)


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ("conv", (2, 9, 9, 7), "this layer takes 10 channels"),
        ("conv", (2, 10, 9), "it must be (N, C, H, W)"),
        ("volume", (2, 10, 9, 9), "it must be (N, C, D, H, W)"),
        ("volume", (2, 9, 4, 5, 6), "this layer takes 10 channels"),
        ("volume", (2, 10, 0, 5, 6), "the depth of x is 0"),
        ("volume, no border", (2, 66, 1, 5, 6), "the padded input depth is 1, less than the 2"),
        ("conv", (2, 10, 0, 7), "the height of x is 0"),
        ("no border", (2, 70, 2, 5), "less than the 3 that the dilated kernel spans"),
        ("up, wide padding", (1, 6, 4, 3), "the height of the output is 5 less a padding of 5; nothing is left"),
        ("row", (2, 69), "its last size must be 70"),
        ("row", (70, 2), "its last size must be 70"),
    ],
)
def test_other_inputs_are_refused(shape, dims, message):
    model = problem(shape, 1, 2).model()
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, [None] * len(dims)))
    with pytest.raises(Exception, match=re.escape(message)):
        session(model).run(None, {"x": np.zeros(dims, np.float32)})


@pytest.mark.parametrize("operation", ["Conv", "Linear"])
def test_bits_of_another_node_are_refused(operation):
    """They are words in a container, of which a layer that took them for floats would make numbers."""
    net, one = Net(70), problem("no border" if operation == "Conv" else "map", 1, 2)
    bits = net.to_bits("x", 70)
    width = one.filters.shape[1]
    node = one.model().graph.node[0]
    node.input[0], node.name = bits, "reader"
    net.nodes.append(node)
    net.initializers |= {f"node0.{name}_": tensor.numpy() for name, tensor in one.tensors.items()}
    for i, name in enumerate(one.tensors):
        node.input[i + 1] = f"node0.{name}_"
    node.output[0] = "y"
    with pytest.raises(Exception, match="the input 'x' is bits of an xnorkit node; this node takes floats"):
        session(net.model("y")).run(
            None, {"x": np.zeros((1, 70, 4, width if operation == "Linear" else 5), np.float32)}
        )
