"""Layers that expand their weights: what codes stand for, the scale inside the weight, and weights that are kept."""

import copy
import pickle

import pytest
import torch
from torch import nn

import quantize
from quantize import kernels, packing
from quantize.kernels import library
from quantize.packed.codes.expanded import ExpandedLayer

LAYERS = {
    "conv": (nn.Conv2d(16, 24, 3, padding=1, groups=2), (2, 16, 9, 7)),
    "depthwise": (nn.Conv2d(12, 12, 3), (2, 12, 6, 6)),
    "transposed": (nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1), (2, 8, 5, 5)),
    "volume": (nn.Conv3d(6, 7, 3), (1, 6, 5, 5, 5)),
    "linear, many rows": (nn.Linear(30, 20), (100, 30)),
}


@pytest.mark.core
@pytest.mark.skipif(library.load() is None, reason="the native library is not built")
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 147])
@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_of_codes(bits, count, scaled):
    codes = torch.randint(256, (5, -(-count * bits // 8)), dtype=torch.uint8)
    levels, scale = torch.randn(2**bits), torch.randn(5) if scaled else None
    expected = packing.codes_to_levels(codes, count, bits, levels)
    expected = expected if scale is None else expected * scale.view(-1, 1)
    assert torch.equal(kernels.levels_of_codes(codes, count, bits, levels, scale), expected)


@pytest.mark.core
@pytest.mark.skipif(library.load() is None, reason="the native library is not built")
def test_the_library_refuses_codes():
    codes, levels = torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(512)
    with pytest.raises(library.KernelError, match="bits is 9; it must be 1 to 8"):
        kernels.levels_of_codes(codes, 2, 9, levels)
    with pytest.raises(ValueError, match=r"codes has shape \(2, 3\)"):
        kernels.levels_of_codes(codes, 17, 2, levels[:4])
    with pytest.raises(ValueError, match="levels has shape"):
        kernels.levels_of_codes(codes, 12, 2, levels)


def prepared(name: str, scheme: str) -> tuple[nn.Module, torch.Tensor]:
    layer, shape = LAYERS[name]
    x = torch.randn(*shape)
    return quantize.prepare(nn.Sequential(copy.deepcopy(layer)), scheme, x, keep_float=()).eval(), x


@pytest.mark.core
@pytest.mark.parametrize(
    "scheme", ["bwn", "binaryconnect", "ternary", "dorefa:w_bits=3,a_bits=32", "int8:inputs=false"]
)
@pytest.mark.parametrize("name", LAYERS)
def test_a_kept_weight_computes_the_same(name, scheme, monkeypatch):
    model, x = prepared(name, scheme)
    plain, keeping = quantize.convert(model, x), quantize.convert(model, x, keep_expanded=True)
    assert torch.equal(plain(x), model(x))
    assert torch.equal(keeping(x), plain(x))
    expanded = []
    values = ExpandedLayer._values
    monkeypatch.setattr(ExpandedLayer, "_values", lambda self, *args: expanded.append(self) or values(self, *args))
    keeping(x)
    assert not expanded
    plain(x)
    assert expanded == [plain[0]]


@pytest.mark.core
def test_what_is_kept_follows_the_codes():
    model, x = prepared("conv", "ternary")
    other, _ = prepared("conv", "ternary")
    nn.init.normal_(other[0].weight)
    keeping, expected = quantize.convert(model, x, keep_expanded=True), quantize.convert(other, x)
    before = keeping(x)
    assert len(pickle.dumps(keeping)) < len(pickle.dumps(expected)) + 500  # what is kept is not saved
    assert torch.equal(copy.deepcopy(keeping)(x), before)
    keeping.load_state_dict(expected.state_dict())
    assert torch.equal(keeping(x), expected(x))
    assert not torch.equal(keeping(x), before)
    assert keeping.double()(x.double()).dtype is torch.float64


def test_the_report_says_what_is_kept():
    model, x = prepared("conv", "bwn")
    assert "expands its weight at each call" in str(quantize.conversion_report(quantize.convert(model, x)))
    kept = str(quantize.conversion_report(quantize.convert(model, x, keep_expanded=True)))
    assert "keeps its weight expanded" in kept
    assert "at each call" not in kept
