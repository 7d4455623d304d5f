"""ReCU: the tails of the standardized weights are clamped, so that stuck weights can change sign again.

Xu et al., *ReCU: Reviving the Dead Weights in Binary Neural Networks*, 2021.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import clip, sign, straight_through, triangle
from .irnet import standardize

TAU_START, TAU_END = 0.85, 0.99


def rectified_clamp(v: Tensor, progress: Tensor) -> Tensor:
    """Clamp to the tau and 1 - tau quantiles of the filter, taken as Laplace distributed.

    The quantile is ``-b ln(2 - 2 tau)`` with ``b = mean |v|``; tau goes from 0.85 to 0.99 with progress.
    """
    tau = TAU_START + (TAU_END - TAU_START) * progress
    b = v.detach().abs().mean(dim=tuple(range(1, v.dim())), keepdim=True)
    quantile = -b * torch.log(2 - 2 * tau)
    return clip(v, -quantile, quantile)


@register_scheme("recu")
@dataclass(frozen=True)
class ReCU(Scheme):
    """``y = (sign(x) * sign(V)) alpha``, ``V`` the standardized filters, ``alpha = mean |W|`` a filter.

    Gradient, G the gradient of ``alpha sign(V)``: the identity through the sign, then through
    :func:`rectified_clamp` and the standardization; none through alpha; ``2 - 2|x|`` on the input.
    """

    signed_input = True
    surrogate = staticmethod(triangle)
    annealed = True
    layouts = ("bireal",)

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        alpha = filters.detach().abs().mean(dim=tuple(range(1, filters.dim())), keepdim=True)
        v = standardize(filters)
        return QuantizedWeight(*straight_through(rectified_clamp(v, layer.progress), sign(v.detach()), alpha))
