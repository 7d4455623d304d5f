"""Every scheme in float64 numpy, from its paper: the independent side of test_schemes.py.

A filter bank W has shape (out_channels, in_channels / groups, *kernel); G is the gradient of the
quantized filters. A new scheme needs a row in FORMULAS for its name, and one for each of its options.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class State:
    """What a formula reads of a layer beside its weights: the progress of training, learned scales."""

    progress: float = 0.0
    scale: Array | None = None


@dataclass(frozen=True)
class Formula:
    """The quantized filters and input of a scheme, and the gradients on the latent ones.

    ``input`` takes (examples, numbers of one): a row of a linear layer is an example.
    ``output_scale``: None, "window mean" (K of XNOR-Net), or "rows and columns" (XNOR-Net++, case 4).
    """

    weight: Callable[[Array, State], Array]
    weight_grad: Callable[[Array, Array, State], Array]
    input: Callable[[Array], Array]
    input_grad: Callable[[Array, Array, State], Array]
    output_scale: str | None = None
    random_in_training: bool = False
    parameter_grads: dict[str, Callable[[Array, Array, State], Array]] = field(default_factory=dict)


def sign(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def per_filter(reduce, w: Array) -> Array:
    return reduce(w, axis=tuple(range(1, w.ndim)), keepdims=True)


def alpha(w: Array) -> Array:
    return per_filter(np.mean, np.abs(w))


# Inputs


def identity(x, *_):
    return x


def pass_all(x, g, _):
    return g


def pass_open(x, g, _):
    return g * (np.abs(x) < 1)


def pass_closed(x, g, _):
    return g * (np.abs(x) <= 1)


def pass_triangle(x, g, _):
    slope = np.select([(x >= -1) & (x < 0), (x >= 0) & (x < 1)], [2 + 2 * x, 2 - 2 * x], 0.0)
    return g * slope


def irnet_slope(x, progress):
    t = 0.1 * np.exp(progress * np.log(10 / 0.1))
    return max(1 / t, 1) * t / np.cosh(t * x) ** 2


def pass_annealed(x, g, state):
    return g * irnet_slope(x, state.progress)


def unit_levels(bits):
    return lambda x: np.rint(np.clip(x, 0, 1) * (2**bits - 1)) / (2**bits - 1)


def pass_unit(x, g, _):
    return g * ((x >= 0) & (x <= 1))


# Weights


def sign_weight(w, _):
    return sign(w)


def sign_weight_grad(w, g, _):
    return g * (np.abs(w) <= 1)


def scaled_sign(w, _=None):
    return alpha(w) * sign(w)


def scaled_sign_grad(w, g, _=None):
    n = w[0].size
    return sign(w) * per_filter(np.sum, g * sign(w)) / n + alpha(w) * g * (np.abs(w) <= 1)


def centred(w):
    return w - w.mean(axis=1, keepdims=True) if w.shape[1] > 1 else w


def xnor_weight(w, _):
    return scaled_sign(np.clip(centred(w), -1, 1))


def xnor_weight_grad(w, g, _):
    grad = scaled_sign_grad(np.clip(centred(w), -1, 1), g) * (np.abs(centred(w)) <= 1)
    return centred(grad)  # the transpose of subtracting the mean is subtracting the mean


def bireal_weight_grad(w, g, _):
    return g * (np.abs(w) <= 1)


def dorefa_one_bit(w, _):
    return np.abs(w).mean() * sign(w)


def straight_through(w, g, _):
    return g


def dorefa_bits(bits):
    def weight(w, _):
        t = np.tanh(w)
        return 2 * np.rint((t / (2 * np.abs(t).max()) + 0.5) * (2**bits - 1)) / (2**bits - 1) - 1

    return weight


def dorefa_bits_grad(w, g, _):
    """Of t / max|t|, t = tanh(W): the rounding passes everything. One weight alone is the largest."""
    t = np.tanh(w)
    largest = np.abs(t).max()
    at_largest = np.abs(t) == largest
    assert at_largest.sum() == 1
    return (g / largest - at_largest * sign(t) * (g * t).sum() / largest**2) * (1 - t**2)


def ternary_weight(w, _):
    quantized = np.zeros_like(w)
    for filters, out in zip(w, quantized, strict=True):
        kept = np.abs(filters) > 0.7 * np.abs(filters).mean()
        if kept.any():
            out[kept] = np.abs(filters[kept]).mean() * sign(filters[kept])
    return quantized


def integers(x, *_):
    """Multiples of 1/127 of the largest, for each filter or example."""
    step = per_filter(np.max, np.abs(x)) / 127
    return np.rint(x / np.where(step > 0, step, 1)) * step


def standardized(w):
    return (w - per_filter(np.mean, w)) / spread(w)


def spread(w):
    deviation = per_filter(np.std, w)
    return np.where(deviation > 1e-6, deviation, 1.0)  # a constant filter is centred only


def through_standardization(w, g):
    v = standardized(w)
    return (g - per_filter(np.mean, g) - v * per_filter(np.mean, g * v)) / spread(w)


def irnet_shift(w):
    return np.exp2(np.rint(np.log2(np.maximum(alpha(standardized(w)), 2.0**-16))))


def irnet_weight(w, _):
    return irnet_shift(w) * sign(standardized(w))


def irnet_weight_grad(w, g, state):
    return through_standardization(w, irnet_shift(w) * g * irnet_slope(standardized(w), state.progress))


def recu_weight(w, _):
    return alpha(w) * sign(standardized(w))


def recu_weight_grad(w, g, state):
    v = standardized(w)
    tau = 0.85 + (0.99 - 0.85) * state.progress
    inside = np.abs(v) <= -alpha(v) * np.log(2 - 2 * tau)
    return through_standardization(w, g * inside)


def as_filter_scale(state, w):
    return state.scale.reshape(-1, *(1,) * (w.ndim - 1))


def xnorpp_weight(w, state):
    return as_filter_scale(state, w) * sign(w)


def xnorpp_weight_grad(w, g, state):
    return as_filter_scale(state, w) * g * (np.abs(w) <= 1)


def xnorpp_scale_grad(w, g, _):
    return (g * sign(w)).reshape(len(w), -1).sum(1)


XNOR = (xnor_weight, xnor_weight_grad, sign, pass_open)
XNORPP = (xnorpp_weight, xnorpp_weight_grad, sign, pass_open)
BIREAL = (scaled_sign, bireal_weight_grad, sign, pass_triangle)
SCALE = {"gamma": xnorpp_scale_grad}

FORMULAS: dict[str, Formula] = {
    "binaryconnect": Formula(sign_weight, sign_weight_grad, identity, pass_all),
    "binaryconnect:stochastic=true": Formula(
        sign_weight, sign_weight_grad, identity, pass_all, random_in_training=True
    ),
    "bireal": Formula(*BIREAL),
    "bnn": Formula(sign_weight, sign_weight_grad, sign, pass_closed),
    "bwn": Formula(scaled_sign, scaled_sign_grad, identity, pass_all),
    "dorefa": Formula(dorefa_one_bit, straight_through, unit_levels(2), pass_unit),
    "dorefa:w_bits=2,a_bits=1": Formula(dorefa_bits(2), dorefa_bits_grad, unit_levels(1), pass_unit),
    "dorefa:w_bits=8,a_bits=8": Formula(dorefa_bits(8), dorefa_bits_grad, unit_levels(8), pass_unit),
    "dorefa:w_bits=32,a_bits=3": Formula(identity, straight_through, unit_levels(3), pass_unit),
    "dorefa:w_bits=3,a_bits=32": Formula(dorefa_bits(3), dorefa_bits_grad, identity, pass_all),
    "int8": Formula(integers, straight_through, integers, pass_all),
    "int8:inputs=false": Formula(integers, straight_through, identity, pass_all),
    "irnet": Formula(irnet_weight, irnet_weight_grad, sign, pass_annealed),
    "react": Formula(*BIREAL),
    "recu": Formula(recu_weight, recu_weight_grad, sign, pass_triangle),
    "ternary": Formula(ternary_weight, straight_through, identity, pass_all),
    "xnor": Formula(*XNOR),
    "xnor:center=false": Formula(scaled_sign, scaled_sign_grad, sign, pass_open),
    "xnor:input_scale=true": Formula(*XNOR, output_scale="window mean"),
    "xnorpp": Formula(*XNORPP, parameter_grads=SCALE),
    "xnorpp:spatial=true": Formula(*XNORPP, output_scale="rows and columns", parameter_grads=SCALE),
}
