"""Binary-Weight-Network: XNOR-Net's weights, float inputs.

Rastegari et al., *XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks*, 2016, sec. 3.1.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from .. import kept_bits
from ..scheme import QuantizedWeight, Scheme, register_scheme
from .xnor import scaled_sign


@register_scheme("bwn")
@dataclass(frozen=True)
class BWN(Scheme):
    """``W -> alpha sign(W)``, ``alpha = mean |W|`` a filter; gradient of :func:`scaled_sign`."""

    def weight(self, filters: Tensor, layer: nn.Module) -> QuantizedWeight:
        return scaled_sign(filters)

    def scaled_weight(self, filters: Tensor, layer: nn.Module) -> Tensor:
        reference = partial(super().scaled_weight, layer=layer)
        if type(self).weight is not BWN.weight:  # as in XNOR
            return reference(filters)
        return kept_bits.scaled_sign(filters, False, reference)
