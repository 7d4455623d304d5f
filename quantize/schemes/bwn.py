"""Binary-Weight-Network: XNOR-Net's weights, float inputs.

Rastegari et al., *XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks*, 2016, sec. 3.1.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from .. import kept_bits
from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from .xnor import scaled_sign


@register_scheme("bwn")
@dataclass(frozen=True)
class BWN(Scheme):
    """``W -> alpha sign(W)``, ``alpha = mean |W|`` a filter; gradient of :func:`scaled_sign`."""

    layouts = ("weights",)

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        return scaled_sign(filters)

    def scaled_weight(self, filters: Tensor, layer: Layer) -> Tensor:
        return kept_bits.scaled_sign(filters, False, partial(super().scaled_weight, layer=layer))
