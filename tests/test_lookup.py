"""Linear layers with few bits a weight and float inputs: sums looked up, against float64."""

import copy

import pytest
import torch
from torch import nn

import quantize
from quantize import kernels
from quantize.packed.codes.lookup import MOST_ROWS, EvenLevels, LookedUp

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(kernels.available_kernels() == ["reference"], reason="the native library is not built"),
]

SCHEMES = ["bwn", "binaryconnect", "ternary", "dorefa:w_bits=1,a_bits=32"]
NATIVE = [name for name in kernels.available_kernels() if name != "reference"]


def converted(scheme: str, inputs: int = 70, outputs: int = 37, bias: bool = True):
    layer = nn.Linear(inputs, outputs, bias)
    prepared = quantize.prepare(nn.Sequential(layer), scheme, torch.randn(3, inputs), keep_float=()).eval()
    return prepared, quantize.convert(prepared, torch.randn(3, inputs))


def formula(layer: quantize.BinaryLayer, x: torch.Tensor) -> torch.Tensor:
    values, scale = (part if part is None else part.double() for part in layer.quantized_weight())
    y = x.double() @ (values if scale is None else values * scale).t()
    return y if layer.bias is None else y + layer.bias.double()


def looks_up(layer: nn.Module) -> bool:
    return isinstance(layer._on_bits, LookedUp) and layer._on_bits.even is not None


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (30, 16), (70, 37), (2100, 5)], ids=str)
def test_it_computes_the_formula(scheme, sizes, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    prepared, packed = converted(scheme, *sizes, bias=sizes[0] > 2)
    for rows in ((), (1,), (4,), (2, 3), (9,), (MOST_ROWS + 1,)):
        x = torch.randn(*rows, sizes[0])
        expected = formula(prepared[0], x)
        torch.testing.assert_close(packed(x).double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert looks_up(packed[0])
    assert packed[0]._on_bits.weights.numel() > 0
    assert kernels.cpu_layers.lookup_kernel(packed[0]._on_bits.weights) == kernel


def test_the_reference_expands(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "reference")
    prepared, packed = converted("bwn")
    x = torch.randn(4, 70)
    torch.testing.assert_close(packed(x), prepared(x))
    assert not looks_up(packed[0])


def test_levels_that_are_not_even_expand():
    """The two bits of a weight that has three values in uneven steps."""
    prepared, packed = converted("ternary")
    x = torch.randn(4, 70)
    packed[0].weight_levels.copy_(torch.tensor([-1.0, 0.0, 0.5, 2.0]))
    weight = packed[0].weight
    torch.testing.assert_close(packed(x), torch.nn.functional.linear(x, weight, packed[0].bias))
    assert not looks_up(packed[0])


@pytest.mark.parametrize("levels", [[-1, 1], [-1, 0, 1, 2], [0.25, 0.5, 0.75, 1], [-3, -2, -1, 0, 1, 2, 3, 4]])
def test_even_levels(levels):
    levels = torch.tensor(levels, dtype=torch.float32)
    even = EvenLevels.of(levels)
    for code, level in enumerate(levels):
        signs = torch.tensor([2.0 * (code >> j & 1) - 1 for j in range(len(even.weights))])
        assert signs @ even.weights + even.middle == level
    assert EvenLevels.of(levels.double()) is None


def test_a_loaded_state_is_computed_with():
    _, first = converted("bwn")
    _, second = converted("bwn")
    x = torch.randn(2, 70)
    expected = second(x)
    assert not torch.allclose(first(x), expected)
    first.load_state_dict(second.state_dict())
    assert torch.equal(first(x), expected)
    assert torch.equal(copy.deepcopy(first)(x), expected)


def test_strides_do_not_matter():
    prepared, packed = converted("bwn")
    x = torch.randn(70, 6).t()
    torch.testing.assert_close(packed(x), prepared(x), rtol=1e-4, atol=1e-5)


def test_double_expands():
    prepared, packed = converted("bwn")
    x = torch.randn(2, 70).double()
    torch.testing.assert_close(packed.double()(x), prepared.double()(x))


def test_vmap_expands():
    prepared, packed = converted("bwn")
    x = torch.randn(3, 2, 70)
    assert packed(x[0]).shape == (2, 37)
    torch.testing.assert_close(torch.func.vmap(packed)(x), prepared(x), rtol=1e-4, atol=1e-5)


def test_the_report_says_so():
    (row,) = quantize.conversion_report(converted("bwn")[1])
    assert "looks sums up by its bits" in row.note


def test_what_the_library_refuses():
    dense = torch.zeros(5, 9, dtype=torch.uint8)
    weights = kernels.cpu_layers.prepare_lookup(dense, 70)
    with pytest.raises(ValueError, match=r"weights has shape \(5, 9\); it must be \(5, 8\)"):
        kernels.cpu_layers.prepare_lookup(dense, 64)
    with pytest.raises(kernels.library.KernelError, match="the weights are of 70 inputs and 5 outputs, not 69 and 5"):
        kernels.cpu_layers.look_up(torch.randn(2, 69), weights, 5)
    with pytest.raises(ValueError, match="x is float64; it must be float32"):
        kernels.cpu_layers.look_up(torch.randn(2, 70).double(), weights, 5)
    with pytest.raises(kernels.library.KernelError, match="made on this machine"):
        kernels.cpu_layers.look_up(torch.randn(2, 70), weights ^ 1, 5)
