"""Training with signs kept as bits: what a backend computes, and the memory order in which it takes elements.

Elements are taken in the order of memory, whatever the layout of a tensor. Words of bits are the backend's own.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class MemoryOrder(NamedTuple):
    """Of a tensor without gaps in memory."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)

    def take(self, x: Tensor) -> Tensor:
        """``x`` in this order, itself where it has it."""
        return x if x.dtype == self.dtype and x.stride() == self.stride else self.empty().copy_(x)

    def filter_strides(self) -> tuple[int, int, int]:
        """From a filter to the next, from an input to the next, from a tap to the next; of (out, in, *kernel)."""
        _, inputs, *kernel = self.size
        taps = math.prod(kernel)
        inputs_last = len(kernel) == 2 and self.stride[1] == 1 and taps > 1
        return (inputs * taps, 1, inputs) if inputs_last else (inputs * taps, taps, 1)


def memory_order(x: Tensor) -> MemoryOrder:
    return MemoryOrder(x.shape, x.stride(), x.dtype, x.device)


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is no subclass of a tensor, and has elements without gaps in memory."""
    if type(x) not in (Tensor, nn.Parameter) or not x.numel():
        return False
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


class TrainingBackend(Protocol):
    """A module with these functions: :mod:`.cpu_signs` and :mod:`.cuda.signs`.

    Gradients are brought into the memory order of what they belong to.
    """

    def takes(self, x: Tensor) -> bool:
        """Whether it computes on ``x``: a plain tensor where the backend is, of a dtype of its."""

    def takes_filters(self, filters: Tensor) -> bool:
        """Whether :meth:`scaled_sign` computes on ``filters``."""

    def sign(self, x: Tensor, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """``sign(x)``, where it is +1, and where ``|x| < 1``, or ``|x| <= 1`` with ``closed``: the last two as bits."""

    def positive_bits(self, x: Tensor) -> Tensor:
        """Where ``x >= 0``, as bits."""

    def signs(self, positive: Tensor, order: MemoryOrder) -> Tensor:
        """+1 where a bit is set, else -1."""

    def pass_inside(self, gradient: Tensor, inside: Tensor, order: MemoryOrder) -> Tensor:
        """``gradient`` where a bit is set, else 0."""

    def scaled_sign(self, filters: Tensor, center: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """``alpha sign(C)``, and what to keep for its gradient.

        C are the filters (out, in, *kernel), with ``center`` less their mean over the inputs and clamped to [-1, 1].
        """

    def scaled_sign_gradient(self, gradient: Tensor, filters: Tensor, center: bool, *kept: Tensor) -> Tensor:
        """The gradient of the filters from that of the values of :meth:`scaled_sign`, and from what it kept."""
