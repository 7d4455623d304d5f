"""Training steps of binary layers on bits: values and gradients against plain torch, float64 and numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize
from quantize import kept_bits, packing
from quantize.binary import binary_layer, sign_product
from quantize.kernels import cpu_signs, library
from quantize.kernels.training import memory_order
from quantize.schemes import BNN, XNOR

pytestmark = [pytest.mark.core, pytest.mark.skipif(library.load() is None, reason="the native library is not built")]

LAYERS = {
    "conv": (nn.Conv2d(24, 32, 3, padding=1, groups=2), (4, 24, 9, 7)),
    "strided": (nn.Conv2d(64, 40, 3, stride=2, dilation=2, padding=(1, 2)), (3, 64, 11, 13)),
    "pointwise": (nn.Conv2d(160, 70, 1, bias=False), (2, 160, 8, 9)),
    "few channels": (nn.Conv2d(8, 8, 3, groups=4), (2, 8, 9, 9)),
    "large filters": (nn.Conv2d(9, 10, 9, padding=4), (2, 9, 10, 10)),
    "one dimension": (nn.Conv1d(20, 12, 5), (3, 20, 31)),
    "linear": (nn.Linear(70, 30), (5, 6, 70)),
    "linear, words": (nn.Linear(128, 64, bias=False), (9, 128)),
}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SCHEMES = ["xnor", "xnor:center=false", "bnn", "bireal", "react", "recu", "xnorpp"]


@pytest.fixture
def products(monkeypatch):
    """What sign_product has computed, and by whom."""
    computed = []

    def spy(x, weight, of):
        computed.append(of)
        return sign_product.sign_product(x, weight, of)

    monkeypatch.setattr(binary_layer, "sign_product", spy)
    return computed


def by_the_engine(monkeypatch):
    monkeypatch.setattr(sign_product, "_is_faster", lambda *_: True)


def binary(layer: nn.Module, scheme, x: torch.Tensor, threshold: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(copy.deepcopy(layer), nn.Hardtanh(-1e6, 1e6, inplace=True))  # in place, as ReLUs often are
    model = quantize.prepare(layers, scheme, x, keep_float=()).train()
    if threshold and model[0].threshold is None:
        model[0].start_threshold(torch.linspace(-0.5, 0.5, model[0].input_channels))
    return model


def gradients(model: nn.Module, x: torch.Tensor, amp: bool = False) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of the parameters."""
    model.zero_grad()
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = model(leaf)
    (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), leaf.grad, *(p.grad.clone() for p in model.parameters())]


def assert_same(ours, plain, tolerance: float) -> None:
    for a, b in zip(ours, plain, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert (a.float() - b.float()).abs().max() <= tolerance * b.float().abs().max()


@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("name", "layout"), [(n, f) for n, (_, s) in LAYERS.items() for f in LAYOUTS if len(s) == 4 or f == "nchw"]
)
def test_a_step_is_that_of_plain_torch(name, layout, scheme, threshold, products, monkeypatch):
    layer, shape = LAYERS[name]
    x = torch.randn(*shape).to(memory_format=LAYOUTS[layout]) if len(shape) == 4 else torch.randn(*shape)
    model = binary(layer, scheme, x, threshold)
    model = model.to(memory_format=LAYOUTS[layout]) if len(shape) == 4 else model
    by_the_engine(monkeypatch)
    ours = gradients(model, x)
    assert [of.by_engine for of in products] == [True]
    monkeypatch.setattr(kept_bits, "engine", lambda x: None)
    assert_same(ours, gradients(model, x), 2e-5)
    assert len(products) == 1


@pytest.mark.parametrize("threshold", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_without_gradients_is_that_of_plain_torch(name, scheme, threshold, products, monkeypatch):
    layer, shape = LAYERS[name]
    x = torch.randn(*shape)
    model = binary(layer, scheme, x, threshold)
    by_the_engine(monkeypatch)
    model(x)  # a step settles the thresholds
    model.eval()
    expected = model(x).detach()  # with gradients: by torch
    products.clear()
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = model(x)
        assert_same([found], [expected], 1e-6)
    assert [of.by_engine for of in products] == [True, True]


@pytest.mark.parametrize("engine", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ["xnor", "bnn", "bireal"])
@pytest.mark.parametrize("name", ["conv", "pointwise", "one dimension", "linear"])
def test_bfloat16(name, scheme, dtype, engine, products, monkeypatch):
    """The gradients of the same signs in float32, to the rounding of bfloat16; inputs that it tells apart from 0, 1."""
    layer, shape = LAYERS[name]
    x = torch.randn(*shape).bfloat16().to(dtype)
    model = binary(layer, scheme, x.float(), threshold=False)
    monkeypatch.setattr(sign_product, "_is_faster", lambda *_: engine)
    ours = gradients(model, x, amp=True)
    assert [t.dtype for t in ours[:2]] == [torch.bfloat16, dtype]
    assert [of.by_engine for of in products] == [engine]
    monkeypatch.setattr(kept_bits, "engine", lambda x: None)
    exact = gradients(model.double(), x.double())
    assert_same([t.float() for t in ours], [t.float() for t in exact], 2e-2)


def test_sums_are_exact(monkeypatch):
    by_the_engine(monkeypatch)
    x = torch.randn(2, 70, 6, 5)
    model = binary(nn.Conv2d(70, 24, 3, padding=1, bias=False), "bnn", x)
    s, w = np.where(x.numpy() >= 0, 1, -1), np.where(model[0].weight.detach().numpy() >= 0, 1, -1)
    padded = np.pad(s, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((2, 24, 6, 5))
    for i in range(3):
        for j in range(3):
            expected += np.einsum("nchw,oc->nohw", padded[:, :, i : i + 6, j : j + 5], w[:, :, i, j])
    assert np.array_equal(model(x).detach().numpy(), expected)


@pytest.mark.parametrize("scheme", ["xnor", "bnn", "bireal"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_gradient_of_the_gradient(scheme, frozen, monkeypatch):
    by_the_engine(monkeypatch)
    x = torch.randn(3, 16, 5, 5)
    model = binary(nn.Conv2d(16, 12, 3), scheme, x, threshold=True)
    model[0].weight.requires_grad_(not frozen)

    def penalty(model, x):
        leaf = x.clone().requires_grad_()
        wanted = [leaf, *(p for p in model.parameters() if p.requires_grad)]
        y = model(leaf * 1.5)
        first = torch.autograd.grad(y.pow(2).sum(), wanted, create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), wanted, allow_unused=True)

    ours = penalty(model, x)
    monkeypatch.setattr(kept_bits, "engine", lambda x: None)
    expected = penalty(model.double(), x.double())
    for a, b in zip(ours, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


class OwnWeights(BNN):
    def weight(self, filters, layer):
        return quantize.scheme.QuantizedWeight(filters.round())


class OwnInput(BNN):
    def input(self, x, layer):
        return torch.where(x >= 0, 1.0, -1.0) + (x - x.detach())


class OwnScale(XNOR):
    def output_scale(self, x, layer, *args):
        return x.abs().mean()


@pytest.mark.parametrize(("scheme", "count"), [(OwnWeights(), 1), (OwnInput(), 0), (OwnScale(), 0)])
def test_schemes_of_ones_own_compute_what_they_say(scheme, count, products, monkeypatch):
    monkeypatch.setattr(quantize.scheme, "_REGISTRY", {**quantize.scheme._REGISTRY, scheme.name: type(scheme)})
    x = torch.randn(3, 16, 7, 7) * 2
    model = binary(nn.Conv2d(16, 16, 3), scheme, x)
    with torch.no_grad():
        model[0].weight *= 20
    ours = gradients(model, x)
    assert len(products) == count
    monkeypatch.setattr(kept_bits, "engine", lambda x: None)
    assert_same(ours, gradients(model, x), 2e-5)


def test_layers_of_ones_own_compute_what_they_say(products):
    class Doubled(quantize.BinaryConv2d):
        def apply_weight(self, x, weight, bias, *args):
            return 2 * super().apply_weight(x, weight, bias, *args)

    x = torch.randn(2, 16, 5, 5)
    layer, plain = Doubled(16, 8, 3), quantize.BinaryConv2d(16, 8, 3)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.train()(x), 2 * plain.train()(x))
    assert len(products) == 1  # of the plain one
    plain.apply_weight = lambda x, weight, bias, *args: F.conv2d(x, 3 * weight, bias)
    plain(x)
    assert len(products) == 1


@pytest.mark.parametrize("scheme", ["xnor:input_scale=True", "xnorpp:spatial=True", "irnet", "dorefa", "bwn"])
def test_what_has_no_such_form_trains_in_plain_torch(scheme, products):
    x = torch.randn(2, 16, 6, 6)
    gradients(binary(nn.Conv2d(16, 16, 3), scheme, x), x)
    assert not products


def test_the_gradient_does_not_overwrite_what_others_read():
    x = torch.randn(2, 16, 6, 6)
    model = binary(nn.Conv2d(16, 16, 3), "xnor", x)
    y = torch.randn(2, 16, 4, 4)
    first = gradients(model, x)
    kept = y.clone()
    leaf = x.clone().requires_grad_()
    model(leaf).backward(y)
    assert torch.equal(y, kept)
    again = gradients(model, x)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 64, 2, 2), (2, 65, 9, 33), (1, 200, 8, 8)])
def test_words_of_pixels(shape, layout):
    x = torch.randn(*shape).to(memory_format=LAYOUTS[layout])
    words = cpu_signs.pixel_words(cpu_signs.positive_bits(x), memory_order(x), -3)
    n, _, h, w = shape
    assert torch.equal(words.view(n, h, w, -1), packing.pack_activations(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(3, 5, 3, 3), (2, 64, 1, 1), (4, 1, 5, 5), (2, 130, 9, 9), (1, 33, 7, 1), (2, 3, 1, 70)]
)
def test_signs_of_filters(shape, layout):
    signs, alpha = torch.randn(*shape).sign(), torch.rand(shape[0])
    filters = (signs * alpha.view(-1, 1, 1, 1)).to(memory_format=LAYOUTS[layout])
    dense, scale = cpu_signs.filter_signs(filters)
    assert torch.equal(dense, packing.pack_weights(signs))
    assert torch.equal(scale, alpha)
    filters[-1, -1, -1, -1] *= 1.5
    assert filters[0].numel() == 1 or cpu_signs.filter_signs(filters) is None
    assert cpu_signs.filter_signs(torch.full((2, 3, 1, 1), float("nan"))) is None


@pytest.mark.parametrize(
    ("channels", "inner", "dtype", "message"),
    [(0, 1, 0, "channels"), (1, 0, 0, "inner"), (3, 1, 0, "multiple"), (1, 1, 7, "dtype")],
)
def test_the_library_refuses_elements(channels, inner, dtype, message):
    elements = library.Elements(64, channels, inner, dtype)
    with pytest.raises(library.KernelError, match=message):
        cpu_signs._call("xk_signs", elements, torch.zeros(1, dtype=torch.int64), torch.zeros(64))
