"""Every scheme, in every kind of layer: output and all gradients equal the formulas in numpy."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scheme_formulas import FORMULAS, State
from torch import nn
from torch.func import functional_call

import quantize

pytestmark = pytest.mark.core

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "linear_tokens": (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
    "conv1d_groups": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (2, 4, 7)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3), (2, 4, 6, 5)),
    "conv2d_options": (
        lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), bias=False),
        (2, 3, 7, 6),
    ),
    "conv2d_groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 4)),
    "conv2d_depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (2, 4, 5, 4)),
    "conv2d_reflect": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), (2, 3, 5, 4)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 2, 3, 4, 3)),
    "transpose1d_groups": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 5)),
    "transpose2d_groups": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        (2, 4, 4, 3),
    ),
    "transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, bias=False), (2, 2, 3, 3, 2)),
}


def test_every_scheme_and_option_has_a_formula():
    for name in quantize.list_schemes():
        specs = [quantize.get_scheme(spec) for spec in FORMULAS if spec.partition(":")[0] == name]
        assert specs, f"scheme {name!r} has no row in FORMULAS of tests/scheme_formulas.py: add its formula there"
        for option in dataclasses.fields(specs[0]):
            values = {getattr(scheme, option.name) for scheme in specs}
            assert len(values) > 1, f"no row in FORMULAS of tests/scheme_formulas.py sets {name}:{option.name}"


def eighths(*shape: int, largest: int) -> torch.Tensor:
    """Random multiples of 1/8 up to ``largest`` eighths: zeros and +-1 are frequent, sums are exact."""
    return torch.randint(-largest, largest + 1, shape).double() / 8


def binary_layer(spec: str, kind: str, training: bool) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """The float layer, its binary counterpart, and an input; weights have zeros and constant filters."""
    build, shape = LAYERS[kind]
    layer, x = build().double(), eighths(*shape, largest=14)
    filters = eighths(*to_filters(layer, layer.weight).shape, largest=12)
    filters[0], filters[1] = 0, 0.25
    filters[-1].view(-1)[0] = -1.75  # the largest, alone
    with torch.no_grad():
        layer.weight.copy_(from_filters(layer, filters))
    prepared = quantize.prepare(nn.Sequential(layer), spec, x, keep_float=()).double()
    quantize.set_progress(prepared, 0.375)
    binary = prepared[0].train(training)
    if binary.threshold is not None:
        nn.init.constant_(binary.threshold, 0.125)
    for name, parameter in binary.named_parameters():
        if name.startswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 2)
    return layer, binary, x


def to_filters(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """(out_channels, in_channels / groups, *kernel), one filter at a time."""
    if not getattr(layer, "transposed", False):
        return weight
    inputs = layer.in_channels // layer.groups
    return torch.stack(
        [weight[g * inputs : (g + 1) * inputs, o] for g in range(layer.groups) for o in range(weight.shape[1])]
    )


def from_filters(layer: nn.Module, filters: torch.Tensor) -> torch.Tensor:
    if not getattr(layer, "transposed", False):
        return filters
    outputs = layer.out_channels // layer.groups
    groups = [filters[g * outputs : (g + 1) * outputs] for g in range(layer.groups)]
    return torch.cat([torch.stack(list(group), dim=1) for group in groups])


def window_mean(layer: nn.Module, magnitude: torch.Tensor) -> torch.Tensor:
    """K: one plain one-channel convolution with a constant box a group."""
    if isinstance(layer, nn.Linear):
        return magnitude.mean(-1, keepdim=True)
    options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    box = type(layer)(1, 1, layer.kernel_size, bias=False, **options).double()
    nn.init.constant_(box.weight, 1 / math.prod(layer.kernel_size)).requires_grad_(False)
    means = [box(group.mean(1, keepdim=True)) for group in magnitude.chunk(layer.groups, 1)]
    return torch.cat([k.expand(-1, layer.out_channels // layer.groups, *k.shape[2:]) for k in means], 1)


def reference(spec: str, layer: nn.Module, binary: nn.Module, x: torch.Tensor, g: torch.Tensor):
    """(output, gradients) by the formula, with torch's float layer on its quantized operands."""
    formula = FORMULAS[spec]
    scale = binary.gamma.detach().numpy() if hasattr(binary, "gamma") else None
    state = State(progress=0.375, scale=scale)
    if binary.threshold is not None:
        x = x - 0.125
    latent = to_filters(layer, layer.weight).detach().numpy()

    filters = torch.tensor(formula.weight(latent, state)).requires_grad_()
    examples = x.flatten(1) if getattr(layer, "kernel_size", ()) else x.flatten(0, -2)
    quantized = torch.tensor(formula.input(examples.numpy())).reshape(x.shape).requires_grad_()
    magnitude = x.abs().requires_grad_()
    parameters = {"weight": from_filters(layer, filters)}
    bias = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()
    no_bias = copy.deepcopy(layer)
    no_bias.bias = None
    y = functional_call(no_bias, parameters, (quantized,))
    dims = len(getattr(layer, "kernel_size", ()))
    rows = {f"gamma_dim{i}": getattr(binary, f"gamma_dim{i}", None) for i in range(dims)}
    rows = {name: row.detach().clone().requires_grad_() for name, row in rows.items() if row is not None}
    if formula.output_scale == "window mean":
        y = y * window_mean(layer, magnitude)
    elif formula.output_scale == "rows and columns" and dims:
        letters = "abc"[:dims]
        y = y * torch.einsum(",".join(letters) + "->" + letters, *rows.values())
    if bias is not None:
        y = y + (bias if dims == 0 else bias.reshape(-1, *(1,) * dims))
    y.backward(g)

    grad_input = formula.input_grad(x.numpy(), quantized.grad.numpy(), state)
    if magnitude.grad is not None:
        grad_input = grad_input + np.where(x.numpy() >= 0, 1.0, -1.0) * magnitude.grad.numpy()
    grad_filters = formula.weight_grad(latent, filters.grad.numpy(), state)
    grads = {"input": grad_input, "weight": from_filters(layer, torch.tensor(grad_filters))}
    if bias is not None:
        grads["bias"] = bias.grad
    if binary.threshold is not None:
        channel = x.dim() - 1 - dims
        grads["threshold"] = -grad_input.sum(axis=tuple(d for d in range(x.dim()) if d != channel))
    grads |= {name: row.grad for name, row in rows.items()}
    for name, grad in formula.parameter_grads.items():
        grads[name] = grad(latent, filters.grad.numpy(), state)
    return y, grads


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("spec", "training"),
    [(spec, mode) for spec in FORMULAS for mode in (True, False) if not (mode and FORMULAS[spec].random_in_training)],
)
def test_output_and_gradients_equal_the_formula(spec, kind, training):
    layer, binary, x = binary_layer(spec, kind, training)
    y = binary(x.requires_grad_())
    g = torch.randn_like(y)
    y.backward(g)
    expected, grads = reference(spec, layer, binary, x.detach(), g)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    found = {"input": x.grad, **{name: p.grad for name, p in binary.named_parameters()}}
    assert found.keys() == grads.keys()
    for name, grad in grads.items():
        grad = torch.as_tensor(grad)
        torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
