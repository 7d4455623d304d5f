"""Training on the CPU: signs and what their gradients need, one bit an element, by the native library.

Elements are taken in the order of memory, whatever the layout of a tensor, and bits are int64 words of 64 elements.
Tensors are such as :func:`takes` accepts; gradients are brought into the layout of what they belong to.
"""

import ctypes
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import library

_WORD = 64


class Layout(NamedTuple):
    """Of a tensor without gaps in memory."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)

    def take(self, x: Tensor) -> Tensor:
        """``x`` in this layout, itself where it has it."""
        return x if x.dtype == self.dtype and x.stride() == self.stride else self.empty().copy_(x)


def layout_of(x: Tensor) -> Layout:
    return Layout(x.shape, x.stride(), x.dtype, x.device)


def filter_strides(layout: Layout) -> tuple[int, int, int]:
    """From a filter to the next, from an input to the next, from a tap to the next; of (out, in, *kernel)."""
    _, inputs, *kernel = layout.size
    taps = math.prod(kernel)
    inputs_last = len(kernel) == 2 and layout.stride[1] == 1 and taps > 1
    return inputs * taps, *((1, inputs) if inputs_last else (taps, 1))


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` is no subclass of a tensor, and has elements without gaps in memory."""
    if type(x) not in (Tensor, nn.Parameter) or not x.numel():
        return False
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))


def takes(x: Tensor) -> bool:
    """Whether ``x`` is a plain float32 tensor on the CPU, without gaps in memory, and the library is there."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and is_plain(x) and library.load() is not None


def _words(elements: int, rows: int = 1) -> Tensor:
    return torch.empty(rows * -(-elements // _WORD), dtype=torch.int64)


def _call(function: str, *arguments) -> None:
    """Of tensors the addresses."""
    found = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    library.call(function, *found, library.parallel())


def sign(x: Tensor, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``sign(x)``, where it is +1, and where ``|x| < 1``, or ``|x| <= 1`` with ``closed``: the last two as bits."""
    values, positive, inside = torch.empty_like(x), _words(x.numel()), _words(x.numel())
    _call("xk_sign", x, x.numel(), closed, values, positive, inside)
    return values, positive, inside


def positive_bits(x: Tensor) -> Tensor:
    """Where ``x >= 0``, as bits."""
    positive = _words(x.numel())
    _call("xk_sign", x, x.numel(), False, None, positive, None)
    return positive


def signs(positive: Tensor, layout: Layout) -> Tensor:
    """+1 where a bit is set, else -1."""
    values = layout.empty()
    _call("xk_signs", positive, values.numel(), values)
    return values


def pass_inside(gradient: Tensor, inside: Tensor, layout: Layout) -> Tensor:
    """``gradient`` where a bit is set, else 0."""
    result = layout.empty()
    _call("xk_pass_inside", layout.take(gradient), inside, result.numel(), result)
    return result


def takes_filters(filters: Tensor) -> bool:
    return takes(filters)


def _filters(layout: Layout, center: bool) -> library.Filters:
    count, inputs, *kernel = layout.size
    _, _, tap_stride = filter_strides(layout)
    return library.Filters(count, inputs, math.prod(kernel), tap_stride != 1, center)


def scaled_sign(filters: Tensor, center: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``alpha sign(C)``, and what to keep: alpha a filter, where C >= 0, and where it is not clamped, as bits.

    C are the filters (out, in, *kernel), with ``center`` less their mean over the inputs and clamped to [-1, 1].
    """
    values, scale, rows = torch.empty_like(filters), torch.empty(len(filters)), len(filters)
    positive, inside = (_words(filters.numel() // rows, rows) for _ in range(2))
    shape = _filters(layout_of(filters), center)
    _call("xk_scaled_sign", ctypes.byref(shape), filters, values, scale, positive, inside)
    return values, (scale, positive, inside)


def scaled_sign_gradient(gradient: Tensor, filters: Tensor, center: bool, *kept: Tensor) -> Tensor:
    """The gradient of the filters from that of the values of :func:`scaled_sign`, and from what it kept."""
    layout = layout_of(filters)
    result, shape = layout.empty(), _filters(layout, center)
    _call("xk_scaled_sign_gradient", ctypes.byref(shape), layout.take(gradient), *kept, result)
    return result
