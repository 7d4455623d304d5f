"""Training with bits kept for the backward pass: the numbers and gradients of plain torch, in less memory."""

import functools
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import quantize
from quantize import kept_bits, kernels
from quantize.kernels import cpu_signs as kernel
from quantize.kernels import library
from quantize.schemes.xnor import center_filters, scaled_sign
from quantize.ste import inside_closed, inside_open, ste_sign, triangle

pytestmark = [pytest.mark.core, pytest.mark.skipif(library.load() is None, reason="the native library is not built")]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

SPECIAL = [0.0, -0.0, 1.0, -1.0, np.nextafter(1, 2), -np.nextafter(1, 2), np.nan, np.inf, -np.inf, 1e-45, -1e-45]
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    """Around the bounds of the surrogates, with the special numbers among them."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    count = min(len(SPECIAL), x.numel())
    x.view(-1)[:count] = torch.tensor(SPECIAL, dtype=torch.float64).float()[:count]
    return x


def in_float64(function, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Result and gradient in a precision that the kernels do not take."""
    x = x.detach().double().requires_grad_()
    result = function(x)
    result.backward(gradient.double())
    return result.detach(), x.grad


class Held:
    """A library of one's own, a copy, whose choice among instruction sets is made at its first call, for good."""

    def __init__(self, folder: Path, name: str):
        self.path, self.name = Path(shutil.copy(library.path(), folder)), name
        self.load = functools.cache(library.load.__wrapped__)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XNORKIT_KERNEL", self.name)
        monkeypatch.setattr(library, "path", lambda: self.path)
        monkeypatch.setattr(library, "load", self.load)


OLDER = [name for name in ("scalar", "avx2") if name in kernels.available_kernels()]


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return {name: Held(tmp_path_factory.mktemp(name), name) for name in OLDER}


@pytest.fixture(params=["best"] if INTERPRETED else ["best", *OLDER])
def instructions(request, held, monkeypatch):
    """The instructions that this machine's library chooses, and older ones."""
    if request.param != "best":
        held[request.param].use(monkeypatch)


def test_a_library_of_ones_own_reads_the_variable(tmp_path, monkeypatch):
    Held(tmp_path, "mmx").use(monkeypatch)
    with pytest.raises(library.KernelError, match="kernel 'mmx' is not one this machine can run"):
        ste_sign(torch.randn(64).requires_grad_())


@pytest.mark.triton
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("derivative", [inside_open, inside_closed])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 64, 2, 2), (2, 65, 9, 33), (4, 256, 8, 8)])
def test_sign_and_its_gradient(shape, derivative, layout):
    x, gradient = values(*shape), torch.randn(*shape)
    x = x.to(memory_format=layout).requires_grad_()
    result = ste_sign(x, derivative)
    assert not result.sign_bits.is_floating_point()  # it did come from the kernel
    result.backward(gradient)
    with np.errstate(invalid="ignore"):
        numbers = x.detach().numpy()
        size = np.abs(numbers)
        inside = size < 1 if derivative is inside_open else size <= 1
        assert np.array_equal(result.detach().numpy(), np.where(numbers >= 0, 1, -1))
    assert np.array_equal(x.grad.numpy(), np.where(inside, gradient.numpy(), 0))
    assert result.is_contiguous(memory_format=layout)


@pytest.mark.triton
@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("scheme", ["xnor", "xnor:center=False", "bwn"])
@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (2, 64, 1, 1), (4, 1, 5, 5), (2, 130, 2, 3), (1, 33, 7, 1)])
def test_scaled_weights_and_their_gradient(shape, scheme, layout):
    filters = (torch.randn(*shape) * 0.8).to(memory_format=layout).requires_grad_()
    gradient = torch.randn(*shape)
    layer = nn.Module()
    result = quantize.get_scheme(scheme).scaled_weight(filters, layer)
    assert "ScaledSign" in type(result.grad_fn).__name__
    result.backward(gradient)
    center = scheme == "xnor"

    def formula(w):
        quantized = scaled_sign(center_filters(w) if center else w)
        return quantized.values * quantized.scale

    expected, expected_gradient = in_float64(formula, filters, gradient)
    torch.testing.assert_close(result.detach().double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(filters.grad.double(), expected_gradient, rtol=1e-5, atol=2e-6)
    assert result.stride() == filters.stride()


@pytest.mark.triton
def test_the_gradient_of_scaled_weights_is_the_published_formula():
    """FACTS' closed form, for filters whose mean over the inputs is zero already and some of which lie outside."""
    w = torch.randn(2, 8, 3, 3).mul(0.9)
    w = (w - w.mean(1, keepdim=True)).requires_grad_()
    gradient = torch.randn_like(w)
    kept_bits.scaled_sign(w, False, None).backward(gradient)
    v, g = w.detach().double().numpy(), gradient.double().numpy()
    n, sign = v[0].size, np.where(v >= 0, 1.0, -1.0)
    alpha = np.abs(v).mean((1, 2, 3), keepdims=True)
    expected = sign * (g * sign).sum((1, 2, 3), keepdims=True) / n + alpha * g * (np.abs(v) <= 1)
    assert (np.abs(v) > 1).any()
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


LAYERS = {
    "conv": (nn.Conv2d(24, 32, 3, padding=1, groups=2), (4, 24, 9, 7)),
    "conv1d": (nn.Conv1d(20, 12, 5), (3, 20, 31)),
    "linear": (nn.Linear(70, 30), (5, 6, 70)),
    "reflect": (nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
    "transposed": (nn.ConvTranspose2d(8, 6, 3, stride=2), (2, 8, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "scheme", [*(pytest.param(name, marks=pytest.mark.triton) for name in ("xnor", "bireal")), "bnn", "react", "xnorpp"]
)
def test_layers_train_as_in_plain_torch(name, scheme, monkeypatch):
    layer, shape = LAYERS[name]
    x = torch.randn(*shape)

    def gradients():
        torch.manual_seed(0)
        binary = quantize.prepare(nn.Sequential(layer), scheme, x, keep_float=()).train()
        leaf = x.clone().requires_grad_()
        result = binary(leaf)
        (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
        return result.detach(), leaf.grad, [p.grad for p in binary.parameters()]

    ours = gradients()
    monkeypatch.setattr(kept_bits, "engine", lambda x: None)
    torch.testing.assert_close(ours, gradients(), rtol=1e-4, atol=1e-5)


@pytest.mark.triton
def test_a_gradient_of_the_gradient():
    x, w = torch.randn(3, 4).requires_grad_(), torch.randn(2, 4).requires_grad_()

    def penalty(x, w):
        y = torch.nn.functional.linear(ste_sign(x) * 2, quantize.get_scheme("xnor").scaled_weight(w, nn.Module()))
        gx, gw = torch.autograd.grad(y.pow(2).sum(), (x, w), create_graph=True)
        return torch.autograd.grad(gx.pow(2).sum() + gw.pow(2).sum(), (x, w))

    ours = penalty(x, w)
    expected = penalty(x.detach().double().requires_grad_(), w.detach().double().requires_grad_())
    for a, b in zip(ours, expected, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_activation_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    x = torch.randn(3, 8, 9, 9)
    binary = quantize.prepare(model, "xnor", x, keep_float=()).train()

    def gradients(forward):
        binary.zero_grad()
        forward(x.requires_grad_()).square().sum().backward()
        return [p.grad.clone() for p in binary.parameters()]

    plain = gradients(binary)
    for reentrant in (False, True):
        again = gradients(lambda x: checkpoint(binary, x, use_reentrant=reentrant))  # noqa: B023
        torch.testing.assert_close(again, plain)


def bytes_kept(model: nn.Module, x: torch.Tensor) -> int:
    """What a forward pass leaves allocated, its output included, by torch's own count."""
    model(x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = model(x)
        result.grad_fn  # noqa: B018  is alive to here
    return sum(event.self_cpu_memory_usage for event in recorded.key_averages())


@pytest.mark.parametrize(("scheme", "bits"), [("xnor", 2), ("bnn", 2), ("xnorpp", 2), ("bireal", 33), ("irnet", 33)])
def test_a_layer_keeps_few_bits_an_element(scheme, bits):
    """Beyond what the batch norm before it and the layer's own output take; curves as surrogates need the input."""
    x = torch.randn(4, 64, 32, 32)
    norm = nn.BatchNorm2d(64)
    model = nn.Sequential(norm, nn.Conv2d(64, 16, 3, padding=1, bias=False))
    binary = quantize.prepare(model, scheme, x, keep_float=()).train()
    norm_alone = bytes_kept(norm.train(), x) - 4 * x.numel()  # its output is not kept
    output, weights = 4 * 4 * 16 * 32 * 32, 4 * 64 * 16 * 9
    kept = bytes_kept(binary, x) - norm_alone - output
    assert kept <= bits * x.numel() / 8 + 6 * weights
    floating = bytes_kept(nn.Sequential(norm, nn.Conv2d(64, 16, 3, padding=1, bias=False)).train(), x)
    assert floating - norm_alone - output >= 4 * x.numel()  # the measure does see what is kept


def test_the_kept_signs_do_not_hold_the_input():
    layer = quantize.BinaryConv2d(4, 4, 3)
    x = torch.randn(1, 4, 8, 8).requires_grad_()
    signs = ste_sign(x * 1.0)
    assert all(saved is None or saved.dtype == torch.int64 for saved in signs.grad_fn.saved_tensors)
    layer(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    "x",
    [torch.randn(4, 4).t()[:, ::2], torch.randn(4).double(), torch.randn(4).half(), torch.randn(0)],
    ids=["gaps", "float64", "float16", "empty"],
)
def test_what_the_kernel_does_not_take_goes_through_torch(x):
    x = x.requires_grad_()
    assert not kernel.takes(x)
    ste_sign(x).sum().backward()
    assert torch.equal(x.grad, (x.detach().abs() < 1).to(x.dtype))


def test_surrogates_that_are_no_indicators_keep_the_input():
    x = torch.randn(100).requires_grad_()
    ste_sign(x, triangle).sum().backward()
    torch.testing.assert_close(x.grad, (2 - 2 * x.detach().abs()).clamp_min(0))


@pytest.mark.triton
def test_a_gradient_in_another_layout():
    x = torch.randn(2, 5, 4, 3).requires_grad_()
    gradient = torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last)
    ste_sign(x).backward(gradient)
    assert torch.equal(x.grad, gradient * (x.detach().abs() < 1))
    y = torch.randn(7, 9).requires_grad_()
    ste_sign(y).sum().backward()  # its gradient has strides of zero
    assert torch.equal(y.grad, (y.detach().abs() < 1).float())


def test_threads_share_the_work():
    x = torch.randn(3, 7, 65, 67)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            ste_sign(leaf).backward(x)
            results.append(leaf.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_as_it_is(dtype):
    if dtype == torch.float16 and not INTERPRETED:
        pytest.skip("only GPUs' kernels take float16: make test-triton runs this")
    x = values(3, 5, 7).to(dtype).requires_grad_()
    gradient = torch.randn(3, 5, 7).to(dtype)
    result = ste_sign(x)
    result.backward(gradient)
    assert not result.sign_bits.is_floating_point()
    assert result.dtype == x.grad.dtype == dtype
    assert torch.equal(result, torch.where(x >= 0, 1.0, -1.0).to(dtype))
    assert torch.equal(x.grad, torch.where(x.detach().abs() < 1, gradient, 0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_a_network_trains_as_in_plain_torch(dtype, monkeypatch):
    x = torch.randn(4, 16, 9, 9, device="cuda")

    def gradients():
        torch.manual_seed(0)
        model = quantize.prepare(nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3)), "xnor", x.cpu(), keep_float=())
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            model.cuda().train()(x).square().sum().backward()
        return [p.grad for p in model.parameters()]

    ours = gradients()
    monkeypatch.setattr(kept_bits, "engine", lambda x: None)
    torch.testing.assert_close(ours, gradients(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("count", [0, -1, 2**62])
def test_the_library_refuses_sizes(count):
    with pytest.raises(library.KernelError, match="count|size"):
        kernel._call("xk_signs", library.Elements(count, 1, 1, 0), torch.zeros(1, dtype=torch.int64), torch.zeros(64))
