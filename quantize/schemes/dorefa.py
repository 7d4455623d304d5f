"""DoReFa-Net: weights of w bits, activations of a bits.

Zhou et al., *DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
Gradients*, 2016. Gradients stay in float (the paper's g = 32).
"""

from dataclasses import dataclass

from torch import Tensor

from ..scheme import FLOAT_BITS, Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import clip, sign, ste_round, straight_through


def quantize_unit(x: Tensor, bits: int) -> Tensor:
    """q_k of the paper (eq. 5): ``round((2^k - 1) x) / (2^k - 1)`` for x in [0, 1]; gradient 1."""
    levels = 2**bits - 1
    return ste_round(x * levels) / levels


def quantize_weight(w: Tensor, bits: int) -> Tensor:
    """``2 q_k(tanh(W) / (2 max |tanh W|) + 1/2) - 1`` (eq. 9); the maximum is over the layer.

    Gradient: through tanh and the maximum, with the identity for the rounding. The last step is
    computed as ``(2 round(levels u) - levels) / levels``, which is the same and symmetric in float.
    """
    t = w.tanh()
    largest = t.abs().max().clamp_min(1e-12)  # an all-zero layer maps to 1/2, then rounds to 0 or 1
    levels = 2**bits - 1
    return (2 * ste_round((t / (2 * largest) + 0.5) * levels) - levels) / levels


@register_scheme("dorefa")
@dataclass(frozen=True)
class DoReFa(Scheme):
    """Weights of ``w_bits``, inputs of ``a_bits``.

    Weights at 1 bit: ``E sign(W)``, ``E = mean |W|`` over the layer, with ``dL/dW = dL/d(E sign(W))``
    (eq. 7); above: :func:`quantize_weight`. Inputs: ``q_k(clamp(x, 0, 1))``, gradient passed where
    ``0 <= x <= 1``.

    Args:
        w_bits: 1 to 8, or 32 for float weights.
        a_bits: 1 to 8, or 32 for float inputs.
    """

    w_bits: int = 1
    a_bits: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("w_bits", "a_bits"):
            bits = getattr(self, option)
            if bits not in (*range(1, 9), FLOAT_BITS):
                raise ValueError(f"option {option!r} of scheme 'dorefa' is {bits}; it must be 1 to 8, or 32 for float")

    @property
    def weight_bits(self) -> int:
        return self.w_bits

    @property
    def input_bits(self) -> int:
        return self.a_bits

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        if self.w_bits == FLOAT_BITS:
            return QuantizedWeight(filters)
        if self.w_bits > 1:
            return QuantizedWeight(quantize_weight(filters, self.w_bits))
        scale = filters.detach().abs().mean().reshape((1,) * filters.dim())
        return QuantizedWeight(*straight_through(filters, sign(filters), scale))

    def input(self, x: Tensor, layer: Layer) -> Tensor:
        return x if self.a_bits == FLOAT_BITS else quantize_unit(clip(x, 0, 1), self.a_bits)
