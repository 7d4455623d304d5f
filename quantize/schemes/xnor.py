"""XNOR-Net: binary weights with one scale a filter, binary inputs.

Rastegari et al., *XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks*, 2016.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import kept_bits
from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import clip, inside_closed, inside_open, magnitude, ste_sign


def center_filters(filters: Tensor) -> Tensor:
    """``clamp(W - mean of W over the input channels, -1, 1)``.

    The mean is not subtracted where a filter has one input channel: it would zero the filter.
    """
    if filters.shape[1] > 1:
        filters = filters - filters.mean(dim=1, keepdim=True)
    return clip(filters, -1, 1)


def scaled_sign(filters: Tensor) -> QuantizedWeight:
    """``alpha * sign(W)`` with ``alpha = mean |W|`` a filter of n weights.

    Gradient, G the gradient of ``alpha * sign(W)``, by the product rule with the straight-through
    estimator in place of the derivative of sign::

        dL/dW_i = (1/n) sign(W_i) sum_j G_j sign(W_j) + alpha G_i 1[|W_i| <= 1]
    """
    values = ste_sign(filters, inside_closed)
    size = filters * values.detach()  # |W| whose derivative is sign(W), at 0 too
    return QuantizedWeight(values, size.mean(dim=tuple(range(1, filters.dim())), keepdim=True))


def centered_filters(values: Tensor, scale: Tensor) -> Tensor:
    """Filters W whose :func:`center_filters` C have the signs ``values`` and the mean size ``scale`` a filter.

    At each tap of a filter the weights over the n input channels sum to zero: with p positive and m = n - p negative
    ones, the positive are ``m t`` and the negative ``-p t``. Clamped to 1, their sizes sum to ``2 p m t`` while the
    larger size, ``max(p, m) t``, is at most 1, and beyond to ``min(p, m) + p m t``. ``t`` is chosen so that all taps
    that have both signs have the same mean size, whose mean over the filter is ``scale``. Where all signs of a tap are
    equal its centred weights are 0, whose sign is +1.
    """
    n = values.shape[1]
    positive = (values > 0).sum(1, keepdim=True).to(values.dtype)
    negative = n - positive
    product, fewer = positive * negative, positive.minimum(negative)
    mixed = (product > 0).to(values.dtype)
    size = scale * n / mixed.mean(dim=tuple(range(1, values.dim())), keepdim=True).clamp_min(1 / n)  # summed, of a tap
    product = product.clamp_min(1)
    t = mixed * (size / (2 * product)).where(size <= 2 * fewer, (size - fewer) / product)
    return torch.where(values > 0, negative * t, -positive * t)


@register_scheme("xnor")
@dataclass(frozen=True)
class XNOR(Scheme):
    """``y = (sign(x) * sign(C)) alpha [K]``, ``C`` the centred filters, ``alpha = mean |C|`` a filter.

    Gradient: :func:`scaled_sign`'s on C, carried through the centring; on the input, ``|x| < 1``.

    Args:
        input_scale: multiply by K, the mean of ``|x|`` over the channels, box-filtered over the
            kernel window (of the sample, for a linear layer). The paper's own code leaves it out.
        center: subtract the mean over the input channels and clamp to [-1, 1] first.
    """

    input_scale: bool = False
    center: bool = True
    signed_input = True
    surrogate = staticmethod(inside_open)

    @property
    def scales_output(self) -> bool:
        return self.input_scale

    @property
    def window_scale(self) -> bool:
        return self.input_scale

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        return scaled_sign(center_filters(filters) if self.center else filters)

    def latent_weight(self, values: Tensor, scale: Tensor) -> Tensor:
        return centered_filters(values, scale) if self.center and values.shape[1] > 1 else values * scale

    def scaled_weight(self, filters: Tensor, layer: Layer) -> Tensor:
        return kept_bits.scaled_sign(filters, self.center, partial(super().scaled_weight, layer=layer))

    def output_scale(self, x: Tensor, layer: Layer, *args) -> Tensor | None:
        return layer.window_mean(magnitude(x), *args) if self.input_scale else None
