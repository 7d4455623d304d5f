"""The layers that networks share against their formulas, and dropout of the inputs of binary layers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import quantize
from models import InputDropout, RPReLU


def rprelu(x, shift_in, slope, shift_out):
    shifted = x - shift_in[:, None, None]
    return np.where(shifted > 0, shifted, slope[:, None, None] * shifted) + shift_out[:, None, None]


def test_rprelu_is_its_formula_and_gradient():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    values = [rng.normal(size=3) for _ in range(3)]
    layer = RPReLU(3).double()
    parameters = layer.shift_in, layer.prelu.weight, layer.shift_out
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = torch.from_numpy(value.copy())
    y = layer(torch.from_numpy(x))
    np.testing.assert_allclose(y.detach().numpy(), rprelu(x, *values), rtol=1e-12)
    (y * torch.from_numpy(weight)).sum().backward()
    for i, parameter in enumerate(parameters):
        for channel in range(3):
            step = np.zeros((3, 3))
            step[i, channel] = 1e-6
            high = rprelu(x, *(v + s for v, s in zip(values, step, strict=True)))
            low = rprelu(x, *(v - s for v, s in zip(values, step, strict=True)))
            slope = ((high - low) * weight).sum() / 2e-6
            assert parameter.grad[channel].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_rprelu_starts_as_prelu():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(RPReLU(3)(x), torch.where(x > 0, x, 0.25 * x))


def mask_of(dropout, x, seed):
    """What ``dropout`` keeps of ``x`` under this seed, seen through a layer that changes nothing."""
    torch.manual_seed(seed)
    return dropout(x, nn.Identity()) != 0


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_input_dropout_of_a_float_layer_is_inverted_dropout(p):
    torch.manual_seed(0)
    x = torch.randn(40, 50)
    dropout, layer = InputDropout(p), nn.Linear(50, 7)
    kept = mask_of(dropout, x, seed=1)
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.05)
    torch.manual_seed(1)
    torch.testing.assert_close(dropout(x, layer), layer(x * kept / (1 - p)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dropout.eval()(x, layer), layer(x))


# int8 does not quantize element by element: its steps are those of an example's largest.
@pytest.mark.parametrize("scheme", sorted(set(quantize.list_schemes()) - {"irnet", "recu", "int8"}))
def test_input_dropout_drops_what_the_scheme_makes_of_the_input(scheme):
    torch.manual_seed(0)
    x = torch.randn(20, 50, requires_grad=True)
    dropout, layer = InputDropout(0.5), quantize.BinaryLinear(50, 7, scheme=scheme)
    if layer.scheme.learned_threshold:
        layer.start_threshold(torch.zeros(50))
    kept = mask_of(dropout, x, seed=1)
    torch.manual_seed(1)
    y = dropout(x, layer)
    middle = 0.5 if scheme == "dorefa" else 0.0  # DoReFa-Net's inputs are 0 and 1
    values, scale = layer.quantized_weight()
    dropped = (layer.scheme.input(x, layer) - middle) * kept / 0.5 + middle
    expected = F.linear(dropped, values if scale is None else values * scale, layer.bias)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(y)
    variables = (x, layer.weight, layer.bias)
    for actual, wanted in zip(
        torch.autograd.grad(y, variables, upstream), torch.autograd.grad(expected, variables, upstream), strict=True
    ):
        torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", ["block4", "block7"])
def test_dropout_of_the_binary_nin_replaces_half_of_the_inputs_by_both_signs(block):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    model = quantize.prepare(models.create_model("nin_dropout_xnornet"), "xnor", x).train()
    seen = []
    layer = model.features.get_submodule(block).conv
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    high, low, _ = seen[0].split([4, 4, 2])
    dropped = high != low
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (high[dropped] == 1).all()
    assert (low[dropped] == -1).all()


@pytest.mark.parametrize("name", ["resnet18_bireal", "resnet20_react", "resnet18_imagenet_bireal"])
def test_first_binary_convolution_sees_both_signs(name):
    torch.manual_seed(0)
    model = models.create_model(name)
    seen = []
    model.layer1[0].conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    # Smooth as photographs are: the largest of nine independent values would hardly ever be negative.
    model(F.interpolate(torch.randn(2, 3, 8, 8), size=64, mode="bilinear"))
    assert 0.1 < (seen[0] < 0).float().mean().item() < 0.9


@pytest.mark.parametrize("p", [-0.1, 1, 1.5])
def test_dropout_out_of_range(p):
    with pytest.raises(ValueError, match=f"dropout is {p}.*at least 0 and below 1"):
        InputDropout(p)
