"""Integers of 8 bits with a scale: for the layers that 1 bit costs too much, the first and the last above all.

Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, 2018,
eq. 1 with the zero point 0, so that weights are symmetric. The input's scale is that of what comes in, with nothing to
calibrate.
"""

from dataclasses import dataclass

from torch import Tensor

from ..scheme import FLOAT_BITS, Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import ste_round, straight_through

LARGEST = 127


def step(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Of 127 steps the largest size of ``x`` over ``dims`` is made; where all is 0, any step does."""
    largest = x.detach().abs().amax(dims, keepdim=True)
    return largest.where(largest > 0, 1.0) / LARGEST


@register_scheme("int8")
@dataclass(frozen=True)
class Int8(Scheme):
    """``W -> s round(W / s)``, ``s = max |W| / 127`` of a filter; ``x`` likewise, with ``s`` of an example.

    An example of a linear layer is a row.

    Gradients: those of the rounded ones, unchanged.

    Args:
        inputs: whether inputs are rounded too.
    """

    inputs: bool = True

    @property
    def weight_bits(self) -> int:
        return 8

    @property
    def input_bits(self) -> int | None:
        return None if self.inputs else FLOAT_BITS

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        scale = step(filters, tuple(range(1, filters.dim())))
        return QuantizedWeight(*straight_through(filters, (filters.detach() / scale).round(), scale))

    def input(self, x: Tensor, layer: Layer) -> Tensor:
        if not self.inputs:
            return x
        scale = step(x, tuple(range(layer.channel_dim, 0)))
        return ste_round(x / scale) * scale
