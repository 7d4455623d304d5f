"""What the formulas of test_schemes.py leave open: true derivatives, randomness, progress, hand-made cases."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import quantize
from quantize.binary.binary_layer import warn_no_progress
from quantize.schemes import irnet, recu
from quantize.schemes.dorefa import quantize_weight
from quantize.schemes.xnor import scaled_sign
from quantize.ste import ste_sign


def finite_differences(function, x: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Central differences of a scalar function, one entry of ``x`` at a time."""
    x = x.detach()
    slopes = []
    for i in range(x.numel()):
        e = torch.zeros_like(x).view(-1)
        e[i] = step
        slopes.append((function(x + e.view_as(x)) - function(x - e.view_as(x))) / (2 * step))
    return torch.stack(slopes).view_as(x)


def gradient(function, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(function(x), x)[0]


def outside_the_surrogate(*shape: int) -> torch.Tensor:
    """|x| > 1, where a surrogate gradient is 0 and the true derivative of sign is as well."""
    x = torch.randn(*shape, dtype=torch.float64)
    return (x + 1.25 * torch.where(x >= 0, 1.0, -1.0)).requires_grad_()


def test_scaled_sign_has_its_true_derivative_where_the_surrogate_is_zero():
    upstream = torch.randn(3, 2, 3, 3, dtype=torch.float64)

    def loss(w):
        values, scale = scaled_sign(w)
        return (values * scale * upstream).sum()

    w = outside_the_surrogate(3, 2, 3, 3)
    torch.testing.assert_close(gradient(loss, w), finite_differences(loss, w), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), (2, 4, 5, 4)),
        (nn.ConvTranspose2d(4, 2, 3, stride=2, groups=2), (1, 4, 3, 2)),
        (nn.Linear(5, 3), (4, 5)),
    ],
    ids=["conv", "transpose", "linear"],
)
def test_k_has_its_true_derivative_where_the_surrogate_is_zero(layer, shape):
    x = outside_the_surrogate(*shape)
    model = nn.Sequential(layer).double()
    binary = quantize.prepare(model, "xnor:input_scale=true", x, keep_float=())
    upstream = torch.randn_like(binary(x))

    def loss(x):
        return (binary(x) * upstream).sum()

    torch.testing.assert_close(gradient(loss, x), finite_differences(loss, x), rtol=1e-6, atol=1e-8)


def test_k_of_a_strided_dilated_padded_convolution_tap_by_tap():
    """K: mean |x| over the channels, box-filtered; a tap in the padding adds 0 and still counts."""
    layer = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 1), dilation=(1, 2), bias=False)
    x = torch.randn(1, 2, 5, 6)
    with_k = quantize.prepare(nn.Sequential(layer), "xnor:input_scale=true", x, keep_float=())
    without = quantize.prepare(nn.Sequential(layer), "xnor", x, keep_float=())
    mean = np.pad(x.abs().mean(1)[0].numpy(), ((1, 1), (1, 1)))
    rows, columns = without(x).shape[2:]
    k = np.zeros((rows, columns), np.float32)
    for i, j, u, v in itertools.product(range(rows), range(columns), range(3), range(2)):
        k[i, j] += mean[2 * i + u, j + 2 * v] / 6
    torch.testing.assert_close(with_k(x), without(x) * torch.from_numpy(k))


def test_the_largest_weight_of_dorefa_moves_all_others():
    w = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, dtype=torch.float64)

    def unrounded(w):
        return (w.tanh() / w.tanh().abs().max() * upstream).sum()

    rounded = gradient(lambda w: (quantize_weight(w, 4) * upstream).sum(), w)
    torch.testing.assert_close(rounded, finite_differences(unrounded, w), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_has_all_its_levels_and_no_others(bits):
    levels = 2**bits - 1
    w = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    found = ((quantize_weight(w, bits) + 1) / 2 * levels).unique(sorted=True)
    torch.testing.assert_close(found, torch.arange(levels + 1, dtype=torch.float64), rtol=0, atol=1e-9)


def binaryconnect(weights: list[float], training: bool) -> quantize.BinaryLinear:
    layer = quantize.BinaryLinear(len(weights), 1, bias=False, scheme="binaryconnect:stochastic=true").train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def test_stochastic_binaryconnect_draws_with_its_probability():
    latent = [-2.0, -1.0, -0.5, 0.0, 0.4, 1.0, 3.0]
    layer = binaryconnect(latent, training=True)
    draws = torch.cat([layer.quantized_weight().values for _ in range(4000)])
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    probability = np.clip((np.array(latent) + 1) / 2, 0, 1)
    five_sigma = 5 * np.sqrt(probability * (1 - probability) / 4000)
    assert np.all(np.abs((draws == 1).double().mean(0).numpy() - probability) <= five_sigma)


def test_stochastic_binaryconnect_passes_its_gradient_on_the_closed_interval():
    layer = binaryconnect([-1.5, -1.0, 0.2, 1.0, 1.5], training=True)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    layer(x).backward()
    assert layer.weight.grad.tolist() == [[0, 2, 3, 4, 0]]


def test_stochastic_binaryconnect_is_deterministic_in_evaluation():
    layer = binaryconnect([-0.5, -0.0, 0.0, 0.5], training=False)
    state = torch.get_rng_state()
    assert layer.quantized_weight().values.tolist() == [[-1, 1, 1, 1]]
    assert torch.equal(torch.get_rng_state(), state)


def test_ternary_keeps_exactly_what_exceeds_its_threshold():
    layer = quantize.BinaryLinear(4, 2, bias=False, scheme="ternary")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, -2.0, 1.25, 0.75], [0.0, 0.0, 0.0, 0.0]]))
    values, scale = layer.quantized_weight()
    assert values.tolist() == [[1, -1, 0, 0], [0, 0, 0, 0]]  # delta = 0.7 * 2
    assert scale[0].item() == 3
    assert layer(torch.randn(5, 4))[:, 1].abs().max() == 0


@pytest.mark.parametrize("name", [n for n in quantize.list_schemes() if quantize.get_scheme(n).annealed])
def test_progress_changes_the_gradient_and_never_the_output(name):
    x = torch.randn(3, 8)
    model = quantize.prepare(nn.Sequential(nn.Linear(8, 4)), name, x, keep_float=())
    outputs, gradients = [], []
    for progress in (0, 0.5, 1):
        quantize.set_progress(model, progress)
        model.zero_grad()
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        gradients.append(model[0].weight.grad.clone())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[1], gradients[2])


def test_progress_between_forward_and_backward_does_not_change_the_gradient():
    model = quantize.prepare(nn.Sequential(nn.Linear(8, 4)), "irnet", torch.randn(3, 8), keep_float=())
    x, gradients = torch.randn(3, 8), []
    for moved in (0.1, 0.9):
        quantize.set_progress(model, 0.1)
        model.zero_grad()
        y = model(x).square().sum()
        quantize.set_progress(model, moved)
        y.backward()
        gradients.append(model[0].weight.grad.clone())
    assert torch.equal(*gradients)


def test_the_irnet_surrogate_goes_from_the_identity_to_sign():
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    start, end = (irnet.annealed_slope(x, torch.tensor(p, dtype=torch.float64)) for p in (0.0, 1.0))
    torch.testing.assert_close(start, torch.ones_like(x), rtol=0, atol=0.011)
    assert end[100].item() == pytest.approx(10)
    assert torch.trapezoid(end, x).item() == pytest.approx(2, rel=1e-3)  # sign rises by 2


def test_recu_clamps_to_the_quantiles_of_a_laplace_distribution():
    v = torch.distributions.Laplace(0.0, 1.0).sample((1, 200_000))
    for progress, tau in ((0.0, 0.85), (1.0, 0.99)):
        limit = recu.rectified_clamp(v, torch.tensor(progress)).max()
        assert (v <= limit).float().mean().item() == pytest.approx(tau, abs=0.005)


@pytest.mark.parametrize("progress", [-0.1, 1.5, float("nan")])
def test_progress_outside_its_range_is_an_error(progress):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=f"progress is {progress}; it must lie between 0 .* and 1"):
        quantize.set_progress(model, progress)


def test_an_annealed_layer_that_nobody_anneals_warns():
    warn_no_progress.cache_clear()
    model = quantize.prepare(nn.Sequential(nn.Linear(8, 4)), "recu", torch.randn(3, 8), keep_float=())
    model.eval()(torch.randn(3, 8))
    with pytest.warns(UserWarning, match=r"scheme 'recu' is annealed .* call quantize.set_progress\(model, progress\)"):
        model.train()(torch.randn(3, 8))


def test_spatial_scales_need_the_output_size():
    with pytest.raises(ValueError, match="xnorpp:spatial=True.* needs prepare's example_input"):
        quantize.prepare(nn.Sequential(nn.Conv2d(3, 4, 3)), "xnorpp:spatial=true", keep_float=())


def test_learned_scales_start_at_the_mean_magnitude():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    binary = quantize.prepare(nn.Sequential(layer), "xnorpp", keep_float=())[0]
    expected = [layer.weight[2 * (o // 3) : 2 * (o // 3) + 2, o % 3].abs().mean().item() for o in range(6)]
    assert binary.gamma.tolist() == pytest.approx(expected)


OWN_WEIGHT = {"weight": lambda self, filters, layer: quantize.QuantizedWeight(0.5 * ste_sign(filters))}
DERIVED = {
    "in the class": lambda base: type("Own", (base,), OWN_WEIGHT),
    "in a mixin": lambda base: type("Own", (type("Mixin", (), OWN_WEIGHT), base), {}),
    "in the class before": lambda base: type("Own", (type("Before", (base,), OWN_WEIGHT),), {}),
}


@pytest.mark.parametrize("base", [quantize.schemes.XNOR, quantize.schemes.BWN])
@pytest.mark.parametrize("where", DERIVED)
def test_a_scheme_that_replaces_the_weight_trains_with_its_own(base, where):
    """Its base class has a faster form, for training, of the weight that is replaced."""
    filters = torch.randn(4, 6, requires_grad=True)
    own, inherited = DERIVED[where](base)(), type("Inherits", (base,), {})()
    assert own.scaled_weight(filters, nn.Module()).abs().unique().tolist() == [0.5]
    assert torch.equal(inherited.scaled_weight(filters, nn.Module()), base().scaled_weight(filters, nn.Module()))
    assert type(inherited).scaled_weight is base.scaled_weight
