"""Linear layers with weights of few bits whose input stays float: sums are looked up, from bits, instead of added.

A weight's bits are signs s_j of planes, ``w = sum_j c_j s_j + m`` (:class:`EvenLevels`), so that a row of the layer is
``sum_j c_j (x * s_j) + m sum(x)``. The kernel takes four inputs at a time: of their 16 sums with signs, which are
formed once a row, each filter takes the one that four of its bits point to. It reads a bit a weight from memory, where
an expanded weight is written and read with 32.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kernels, packing
from ..binary.quantized_layer import QuantizedLayer
from ..kernels import cpu
from ..scheme import FLOAT_BITS

MOST_ROWS = 64  # times bits of a weight: with more, a product of floats with the expanded weight is faster
SLOW = {"scalar": 4, "neon": 4}  # the same of kernels that look up one by one


def most_rows(bits: int, kernel: str = "") -> int:
    """Up to how many rows the sums of weights of ``bits`` are looked up; without a kernel, where one is fast."""
    return SLOW.get(kernel, MOST_ROWS) // bits


class EvenLevels(NamedTuple):
    """Levels of codes as ``sum_j weights[j] s_j + middle`` with the signs s_j of the code's bits."""

    weights: Tensor
    middle: Tensor

    @property
    def are_signs(self) -> bool:
        """Whether the levels are -1 and +1, so that there is nothing to add up."""
        return self.weights.tolist() == [1.0] and not self.middle

    @classmethod
    def of(cls, levels: Tensor) -> "EvenLevels | None":
        """None where float32 levels, as many as there are codes, are not even, or would not come out exactly."""
        if levels.dtype is not torch.float32:
            return None
        bits = len(levels).bit_length() - 1
        order = torch.arange(bits, device=levels.device)
        weights = (levels[1] - levels[0]) / 2 * 2**order
        middle = levels[0] + weights.sum()
        signs = 2 * (torch.arange(len(levels), device=levels.device)[:, None] >> order & 1) - 1
        return cls(weights, middle) if torch.equal(signs.float() @ weights + middle, levels) else None


class LookedUp:
    """What a layer that stores codes computes with where its input stays float.

    Attributes:
        codes: of the weight that this was made of.
    """

    def __init__(self, layer: QuantizedLayer, codes: Tensor, bits: int, levels: Tensor):
        self.codes = codes
        self.even = EvenLevels.of(levels) if codes.device.type == "cpu" and kernels.is_native(codes) else None
        if self.even is not None:
            self.factors, self.middle = self.even.weights.tolist(), float(self.even.middle)
            self.outputs, inputs = layer.out_features, layer.in_features
            self.weights = cpu.prepare_lookup(sign_planes(codes, inputs, bits), inputs)
            self.most_rows = most_rows(bits, cpu.lookup_kernel(self.weights))

    def takes(self, x: Tensor) -> bool:
        """Whether sums of ``x`` are looked up."""
        return self.even is not None and math.prod(x.shape[:-1]) <= self.most_rows

    def compute(self, layer: QuantizedLayer, x: Tensor) -> Tensor | None:
        """The layer's operation on ``x`` and the values of its weight; None where it has to expand it."""
        if not self.takes(x):
            return None
        batch = x.reshape(math.prod(x.shape[:-1]), -1).contiguous()
        planes = cpu.look_up(batch, self.weights, len(self.factors) * self.outputs).split(self.outputs, 1)
        y = planes[0] if self.factors[0] == 1 else planes[0].mul_(self.factors[0])
        for factor, plane in zip(self.factors[1:], planes[1:], strict=True):
            y = y.add(plane, alpha=factor)
        if self.middle:
            y = y.add(batch.sum(1, keepdim=True), alpha=self.middle)
        return y.view(*x.shape[:-1], self.outputs)


def sign_planes(codes: Tensor, inputs: int, bits: int) -> Tensor:
    """The bits of codes (out, bytes), ``inputs`` codes a row, as planes, lowest first: (bits out, ceil(inputs / 8))."""
    planes = packing.bytes_to_bits(codes, inputs * bits).unflatten(1, (inputs, bits)).permute(2, 0, 1)
    return packing.bits_to_bytes(planes.flatten(0, 1))


def has_lookup(layer: QuantizedLayer) -> bool:
    """Whether a layer that stores codes may look its sums up."""
    return not layer.kernel_size and layer.scheme.input_bits == FLOAT_BITS
