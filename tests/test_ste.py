"""sign() and the straight-through estimators, at the values where they go wrong."""

import numpy as np
import pytest
import torch

from quantize.ste import (
    clip,
    inside_closed,
    inside_open,
    magnitude,
    sign,
    ste_round,
    ste_sign,
    straight_through,
    triangle,
)

pytestmark = pytest.mark.core

INF, NAN = float("inf"), float("nan")
SIGNS = [(0.0, 1), (-0.0, 1), (1e-30, 1), (-1e-30, -1), (2.0, 1), (-2.0, -1), (INF, 1), (-INF, -1), (NAN, -1)]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
POINTS = [-1.5, -1.0, -0.75, -0.0, 0.0, 0.25, 1.0, 1.25]


def gradient(function, points=POINTS, dtype=torch.float64):
    x = torch.tensor(points, dtype=dtype, requires_grad=True)
    upstream = torch.arange(1, len(points) + 1, dtype=dtype)
    function(x).backward(upstream)
    return (x.grad / upstream).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sign_is_never_zero(dtype):
    x = torch.tensor([value for value, _ in SIGNS], dtype=torch.float64)
    x[2:4] = torch.tensor([1, -1], dtype=x.dtype) * torch.finfo(dtype).tiny  # the smallest normal numbers
    assert torch.equal(sign(x.to(dtype)), torch.tensor([s for _, s in SIGNS], dtype=dtype))


def test_sign_keeps_shape_and_has_no_gradient():
    x = torch.randn(2, 0, 3, requires_grad=True)
    assert sign(x).shape == x.shape
    assert not sign(x).requires_grad


@pytest.mark.parametrize(
    ("derivative", "expected"),
    [
        (inside_open, [0, 0, 1, 1, 1, 1, 0, 0]),
        (inside_closed, [0, 1, 1, 1, 1, 1, 1, 0]),
        (triangle, [0, 0, 0.5, 2, 2, 1.5, 0, 0]),
    ],
)
def test_surrogate_gradient(derivative, expected):
    assert gradient(lambda x: ste_sign(x, derivative)) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_ste_sign_keeps_its_dtype_both_ways(dtype):
    x = torch.tensor([-0.5, 0.0, 2.0], dtype=dtype, requires_grad=True)
    y = ste_sign(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert y.tolist() == [-1, 1, 1]
    assert x.grad.tolist() == [1, 1, 0]


def test_the_default_surrogate_is_open():
    assert gradient(ste_sign) == gradient(lambda x: ste_sign(x, inside_open))


def test_infinity_gets_no_gradient_and_nan_keeps_it_to_itself():
    assert gradient(ste_sign, [INF, -INF, 0.5]) == [0, 0, 1]
    assert gradient(ste_sign, [NAN, INF, 0.5])[1:] == [0, 1]


def test_triangle_integrates_to_the_piecewise_quadratic_sign():
    x = torch.linspace(-1.5, 1.5, 30001, dtype=torch.float64)
    integral = torch.cumulative_trapezoid(triangle(x), x) - 1
    quadratic = torch.where(x < 0, 2 * x + x**2, 2 * x - x**2).where(x.abs() < 1, sign(x))
    torch.testing.assert_close(integral, quadratic[1:], rtol=0, atol=1e-6)


def test_round_goes_to_even_and_passes_its_gradient():
    x = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.4], dtype=torch.float64)
    assert ste_round(x).tolist() == [-2, -0.0, 0, 2, 2]
    assert gradient(ste_round) == [1] * len(POINTS)


def test_magnitude_has_a_slope_of_one_at_zero():
    assert torch.equal(magnitude(torch.tensor(POINTS)), torch.tensor(POINTS).abs())
    assert gradient(magnitude) == [-1, -1, -1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (torch.tensor([-1.0]), torch.tensor([1.0]))], ids=["float", "tensor"])
def test_clip_passes_the_gradient_at_its_bounds(bounds):
    assert clip(torch.tensor(POINTS), *bounds).tolist() == np.clip(POINTS, -1, 1).tolist()
    assert gradient(lambda x: clip(x, *bounds)) == [0, 1, 1, 1, 1, 1, 1, 0]


def test_straight_through_hands_the_gradient_on_unchanged():
    w = torch.randn(3, 4, requires_grad=True, dtype=torch.float64)
    scale = torch.tensor([[0.5], [0.0], [1e-9]], dtype=torch.float64)
    values, used = straight_through(w, sign(w), scale)
    upstream = torch.randn(3, 4, dtype=torch.float64)
    (values * used).backward(upstream)
    torch.testing.assert_close(w.grad, upstream, rtol=1e-12, atol=0)
    torch.testing.assert_close(values * used, sign(w) * scale, rtol=0, atol=1e-100)


def test_gradients_can_be_differentiated_again():
    x = torch.randn(5, requires_grad=True)
    (first,) = torch.autograd.grad((ste_sign(x) * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(second, (x.abs() < 1).float() + (x.abs() < 1).float())
