"""Ternary Weight Networks: weights in {-alpha, 0, alpha}, float inputs.

Li et al., *Ternary Weight Networks*, 2016.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import sign, straight_through


@register_scheme("ternary")
@dataclass(frozen=True)
class TWN(Scheme):
    """``W -> alpha T``, ``T_i = sign(W_i) 1[|W_i| > delta]``, ``delta = 0.7 mean |W|``,
    ``alpha`` = mean of ``|W|`` over ``|W| > delta``; all a filter.

    Gradient: ``dL/dW = dL/d(alpha T)``.
    """

    layouts = ("weights",)

    @property
    def weight_bits(self) -> int:
        return 2

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        latent = filters.detach()
        size, axes = latent.abs(), tuple(range(1, latent.dim()))
        kept = size > 0.7 * size.mean(dim=axes, keepdim=True)
        # A filter of zeros keeps nothing: 0 / 1 makes its scale 0.
        alpha = (size * kept).sum(dim=axes, keepdim=True) / kept.sum(dim=axes, keepdim=True).clamp_min(1)
        values = torch.where(kept, sign(latent), 0.0).to(latent.dtype)
        return QuantizedWeight(*straight_through(filters, values, alpha))
