"""SignMatMul in onnxruntime: by its kernel and by its body, against a product of float64, and what it refuses."""

import re

import numpy as np
import onnx
import pytest
import torch
from ort_models import Net, run, session

from quantize import packing
from quantize.export.functions import function
from quantize.kernels import cpu

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]

SHAPES = {
    "a row": ((1, 70), 33),
    "no rows": ((70,), 33),
    "rows": ((5, 64), 16),
    "tokens": ((2, 3, 9), 40),
    "map": ((2, 3, 4, 131), 7),
    "one weight": ((3, 1), 1),
    "wide": ((2, 1000), 129),
}


def model(signs: torch.Tensor, rank: int, **changed) -> onnx.ModelProto:
    """One node with its body; ``changed`` replaces attributes and ``weight_bits``."""
    bits = changed.pop("weight_bits", packing.bits_to_bytes(signs > 0))
    attributes = {"filter_shape": list(signs.shape), "filter_bits": [signs.shape[1]], **changed}
    net = Net(None)
    net.inputs["x"] = [None] * rank
    y = net.node("SignMatMul", "x", {"weight_bits": bits}, {k: v for k, v in attributes.items() if v is not None})
    return net.model(y, [function("SignMatMul")])


def random_signs(outputs: int, inputs: int) -> torch.Tensor:
    return torch.where(torch.rand(outputs, inputs) > 0.5, 1.0, -1.0)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "body"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product(shape, kernels):
    dims, outputs = SHAPES[shape]
    x, signs = torch.randn(dims), random_signs(outputs, dims[-1])
    y = run(session(model(signs, len(dims)), kernels=kernels), x)
    expected = x.double() @ signs.double().T
    assert y.shape == expected.shape
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-6 * dims[-1])


@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_every_kernel_and_two_threads(kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    x, signs = torch.randint(-8, 9, (9, 300)).float(), random_signs(200, 300)  # whole numbers: sums are exact
    for threads in (1, 2):
        assert torch.equal(run(session(model(signs, 2), threads=threads), x), x @ signs.T)


def test_the_kernel_ran_and_not_the_body(monkeypatch):
    """The library takes part with its kernel alone, which cannot be had under that name."""
    monkeypatch.setenv("XNORKIT_KERNEL", "no such kernel")
    session(model(random_signs(3, 8), 2), kernels=False)
    with pytest.raises(Exception, match="kernel 'no such kernel' is not one this machine can run"):
        session(model(random_signs(3, 8), 2))


def test_an_empty_batch():
    signs = random_signs(3, 8)
    assert run(session(model(signs, 2)), torch.zeros(0, 8)).shape == (0, 3)
    assert run(session(model(signs, 3)), torch.zeros(2, 0, 8)).shape == (2, 0, 3)


REFUSED = {
    "no shape": ({"filter_shape": None}, "filter_shape"),
    "a size of 0": ({"filter_shape": [0, 70]}, "a size of filter_shape is 0"),
    "other bits": ({"filter_bits": [71]}, "filter_bits is 71; filter_shape (33, 70) says 70"),
    "other rows": ({"filter_shape": [34, 70]}, "weight_bits"),
    "huge": ({"filter_shape": [2**62, 2**40], "filter_bits": [2**40]}, "filter_shape"),
    "bits past the end": (
        {"weight_bits": torch.full((33, 9), 255, dtype=torch.uint8)},
        "filter 0 of 'weight_bits' has bits set past its end: the data is damaged",
    ),
    "a later version": ({"xnorkit_version": 9}, "the file needs version 9"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_nodes_are_refused(case):
    changed, message = REFUSED[case]
    with pytest.raises(Exception, match=re.escape(message)) as error:
        session(model(random_signs(33, 70), 2, **changed))
    assert "SignMatMul node 'node0'" in str(error.value)


@pytest.mark.parametrize("dims", [(2, 69), (70, 2)])
def test_other_inputs_are_refused(dims):
    opened = session(model(random_signs(33, 70), 2))
    with pytest.raises(Exception, match=re.escape(f"x has shape {dims}; its last size must be 70")):
        opened.run(None, {"x": np.zeros(dims, np.float32)})
