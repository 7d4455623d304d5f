"""Bi-Real Net: a closer surrogate of the sign of the input; the network has a shortcut round every convolution.

Liu et al., *Bi-Real Net: Enhancing the Performance of 1-bit CNNs with Improved Representational
Capability and Advanced Training Algorithm*, 2018. The shortcuts belong to the network, see models/.
"""

from dataclasses import dataclass

from torch import Tensor

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import clip, sign, straight_through, triangle


def clipped_sign(filters: Tensor) -> QuantizedWeight:
    """``alpha sign(W)``, ``alpha = mean |W|`` a filter, a constant to the gradient.

    Gradient, G the gradient of ``alpha sign(W)``: ``dL/dW = G 1[|W| <= 1]``.
    """
    alpha = filters.detach().abs().mean(dim=tuple(range(1, filters.dim())), keepdim=True)
    return QuantizedWeight(*straight_through(clip(filters, -1, 1), sign(filters.detach()), alpha))


@register_scheme("bireal")
@dataclass(frozen=True)
class BiReal(Scheme):
    """``y = (sign(x) * sign(W)) alpha``; gradient :func:`clipped_sign`'s, and on the input the
    piecewise linear ``2 - 2|x|`` where ``|x| < 1`` (the derivative of a piecewise quadratic sign).
    """

    signed_input = True
    surrogate = staticmethod(triangle)
    layouts = ("bireal",)

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        return clipped_sign(filters)
