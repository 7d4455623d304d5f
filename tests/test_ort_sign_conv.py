"""SignConv in onnxruntime: by its kernel and by its body, against a convolution of float64, and what it refuses."""

import math
import re

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from ort_models import HAS_SIGN_CONV, Net, run, session
from torch import Tensor
from torch.nn import functional as F

from quantize import packing
from quantize.export.functions import function
from quantize.kernels import cpu

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]
needs_kernel = pytest.mark.skipif(not HAS_SIGN_CONV, reason="no kernel of this machine permutes 16 floats")

# filters, strides, pads, dilations, group, input
SHAPES = {
    "conv": ((20, 10, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (2, 10, 9, 7)),
    "no border": ((17, 66, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1, (3, 66, 6, 5)),
    "uneven": ((18, 4, 3, 2), (2, 1), (2, 1, 1, 3), (1, 2), 3, (2, 12, 9, 8)),
    "pixels": ((33, 130, 1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1, (1, 130, 40, 33)),
    "padding alone": ((5, 3, 2, 2), (3, 3), (4, 4, 4, 4), (1, 1), 1, (1, 3, 1, 2)),
    "wide": ((300, 32, 1, 5), (1, 1), (0, 2, 0, 2), (1, 1), 1, (1, 32, 2, 150)),
    "bands": ((4, 128, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, (1, 128, 37, 41)),
}


def model(shape: str, **changed) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """One node with its body, and its tensors; ``changed`` replaces attributes and tensors, None leaves one out."""
    filters, strides, pads, dilations, group, size = SHAPES[shape]
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, filters, generator=generator).float() * 2 - 1
    tensors = {
        "weight_bits": packing.pack_weights(signs),
        "scale": torch.rand(filters[0], generator=generator) + 0.1,
        "bias": torch.randn(filters[0], generator=generator),
    }
    out, channels, *kernel = filters
    attributes = {
        "filter_shape": [out, *kernel, channels],
        "filter_bits": [channels * math.prod(kernel)],
        "kernel_shape": kernel,
        **{"strides": list(strides), "pads": list(pads), "dilations": list(dilations), "group": group},
        "size_hint": list(size[2:]),
    }
    given = tensors | {name: changed.pop(name) for name in [*tensors] if name in changed}
    attributes = {name: value for name, value in (attributes | changed).items() if value is not None}
    net = Net(None)
    return net.model(net.node("SignConv", "x", given, attributes), [function("SignConv")]), tensors | {"signs": signs}


def expected(shape: str, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    _, strides, (top, left, bottom, right), dilations, group, _ = SHAPES[shape]
    padded = F.pad(x.double(), (left, right, top, bottom))
    y = F.conv2d(padded, tensors["signs"].double(), None, strides, 0, dilations, group)
    return y * tensors["scale"].double().view(1, -1, 1, 1) + tensors["bias"].double().view(1, -1, 1, 1)


def integers(shape: str) -> Tensor:
    """Sums of whole numbers are exact, in whatever order."""
    return torch.randint(-8, 9, SHAPES[shape][-1], generator=torch.Generator().manual_seed(2)).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_and_bodies_compute_the_convolution(shape):
    one, tensors = model(shape)
    x = integers(shape)
    ours = run(session(one), x)
    torch.testing.assert_close(ours.double(), expected(shape, tensors, x), rtol=1e-6, atol=1e-5)
    assert torch.equal(run(session(one, threads=2), x), ours)
    torch.testing.assert_close(run(session(one, kernels=False), x), ours, rtol=1e-6, atol=1e-5)
    assert torch.equal(torch.from_numpy(ReferenceEvaluator(one).run(None, {"x": x.numpy()})[0]), ours)
    x = torch.randn(SHAPES[shape][-1])
    found, right = run(session(one), x).double(), expected(shape, tensors, x)
    torch.testing.assert_close(found, right, rtol=0, atol=1e-5 * float(right.abs().max()))


@pytest.mark.parametrize("kernel", cpu.available_kernels())
@pytest.mark.parametrize("shape", ["conv", "uneven"])
def test_every_kernel(shape, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    one, tensors = model(shape)
    x = integers(shape)
    torch.testing.assert_close(run(session(one), x).double(), expected(shape, tensors, x), rtol=1e-6, atol=1e-5)


@needs_kernel
def test_the_kernel_ran_and_not_the_body(monkeypatch):
    """The library takes part with its kernel alone, which cannot be had under that name."""
    monkeypatch.setenv("XNORKIT_KERNEL", "no such kernel")
    session(model("conv")[0], kernels=False)
    with pytest.raises(Exception, match="kernel 'no such kernel' is not one this machine can run"):
        session(model("conv")[0])


def test_an_empty_batch():
    assert run(session(model("conv")[0]), torch.zeros(0, 10, 9, 7)).shape == (0, 20, 9, 7)


def test_what_is_no_number():
    """Infinities and NaN are where they are in the body."""
    one, _ = model("conv")
    x = integers("conv")
    x[0, 3, 4, 4], x[0, 5, 0, 0], x[1, 2, 8, 6], x[1, 3, 8, 6] = math.nan, math.inf, math.inf, -math.inf
    found, body = (run(session(one, kernels=kernels), x) for kernels in (True, False))
    assert body.isnan().any()
    assert body.isinf().any()
    torch.testing.assert_close(found, body, rtol=1e-6, atol=1e-5, equal_nan=True)


REFUSED = {
    "no shape": ({"filter_shape": None}, "filter_shape"),
    "a size of 0": ({"filter_shape": [0, 3, 3, 10]}, "a size of filter_shape is 0"),
    "other bits": ({"filter_bits": [91]}, "filter_bits is 91; filter_shape (20, 3, 3, 10) says 90"),
    "other kernel": ({"kernel_shape": [3, 2]}, "kernel_shape is (3, 2); filter_shape says (3, 3)"),
    "other outputs": ({"filter_shape": [21, 3, 3, 10]}, "weight_bits"),
    "groups": ({"group": 3}, "group is 3; it must divide the 20 outputs"),
    "a stride": ({"strides": [0, 1]}, "stride_h is 0"),
    "a padding": ({"pads": [0, 0, 0, -1]}, "pad_right is -1"),
    "no dilations": ({"dilations": None}, "dilations"),
    "bits past the end": (
        {"weight_bits": torch.full((20, 12), 255, dtype=torch.uint8)},
        "filter 0 of 'weight_bits' has bits set past its end: the data is damaged",
    ),
    "scales": ({"scale": torch.ones(10)}, "the input 'scale' has 10 values; the attributes say 20"),
    "a later version": ({"xnorkit_version": 9}, "the file needs version 9"),
}


@needs_kernel
@pytest.mark.parametrize("case", REFUSED)
def test_damaged_nodes_are_refused(case):
    changed, message = REFUSED[case]
    with pytest.raises(Exception, match=re.escape(message)) as error:
        session(model("conv", **changed)[0])
    assert "SignConv node 'node0'" in str(error.value)


@needs_kernel
@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((2, 9, 9, 7), "this layer takes 10 channels"),
        ((2, 10, 9), "it must be (N, C, H, W)"),
        ((2, 10, 0, 7), "the height of x is 0"),
    ],
)
def test_other_inputs_are_refused(dims, message):
    one, _ = model("conv")
    one.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", 1, [None] * len(dims)))
    with pytest.raises(Exception, match=re.escape(message)):
        session(one).run(None, {"x": np.zeros(dims, np.float32)})
