"""BinaryConnect: weights are signs, deterministic or drawn at random, inputs stay float.

Courbariaux et al., *BinaryConnect: Training Deep Neural Networks with binary weights during
propagations*, 2015.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import inside_closed, plus_minus, ste_sign


class _StochasticSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor) -> Tensor:
        probability = ((w + 1) / 2).clamp(0, 1)
        return plus_minus(torch.rand_like(w) < probability, w.dtype)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (w,) = ctx.saved_tensors
        return grad * inside_closed(w)


def stochastic_sign(w: Tensor) -> Tensor:
    """+1 with probability ``clamp((w + 1) / 2, 0, 1)``, else -1; gradient passed where ``|w| <= 1``."""
    return _StochasticSign.apply(w)


@register_scheme("binaryconnect")
@dataclass(frozen=True)
class BinaryConnect(Scheme):
    """``W -> sign(W)``; gradient passed where ``|W| <= 1``.

    Args:
        stochastic: draw the sign in training (eq. 2 of the paper). Of the three ways to evaluate (sec. 2.6) the
            paper takes the float weights for this variant; here it is ``sign(W)``, the 1-bit network that ships,
            whose batch norm needs statistics of its own: :func:`quantize.estimate_statistics`.
    """

    stochastic: bool = False
    clips_weights = True
    layouts = ("weights",)

    @property
    def random_in_training(self) -> bool:
        return self.stochastic

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        if self.stochastic and layer.training:
            return QuantizedWeight(stochastic_sign(filters))
        return QuantizedWeight(ste_sign(filters, inside_closed))
