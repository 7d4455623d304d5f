"""BinaryNet: weights and inputs are signs, no scale.

Courbariaux et al., *Binarized Neural Networks: Training Deep Neural Networks with Weights and
Activations Constrained to +1 or -1*, 2016.
"""

from dataclasses import dataclass

from torch import Tensor

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import inside_closed, ste_sign


@register_scheme("bnn")
@dataclass(frozen=True)
class BNN(Scheme):
    """``y = sign(x) * sign(W)``; gradient of both signs: hard tanh, 1 where ``|.| <= 1``."""

    signed_input = True
    surrogate = staticmethod(inside_closed)
    clips_weights = True

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        return QuantizedWeight(ste_sign(filters, inside_closed))
