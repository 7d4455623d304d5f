"""The training backend of the CPU: signs and their gradients by the native library; bits are int64 words."""

import ctypes
import math
import os

import torch
from torch import Tensor

from .. import packing
from . import cpu, library
from .training import MemoryOrder, is_plain, memory_order

_WORD = 64
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def takes(x: Tensor) -> bool:
    """Whether ``x`` is a plain tensor on the CPU, without gaps in memory, in float32 or bfloat16, and the library is
    there.
    """
    return x.dtype in DTYPES and x.device.type == "cpu" and is_plain(x) and library.load() is not None


def takes_filters(filters: Tensor) -> bool:
    return filters.dtype is torch.float32 and takes(filters)


def _words(elements: int, rows: int = 1) -> Tensor:
    return torch.empty(rows * -(-elements // _WORD), dtype=torch.int64)


def _call(function: str, *arguments) -> None:
    library.call(function, *map(_argument, arguments), library.parallel())


def _argument(value):
    """The address of a tensor, a reference to a structure or a number that is written, and other values as they are."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    return ctypes.byref(value) if isinstance(value, (ctypes.Structure, ctypes.c_int32)) else value


def _elements(order: MemoryOrder, channel_dim: int | None = None) -> library.Elements:
    """The library's view of a tensor, all of one channel where there is no ``channel_dim``."""
    count, dtype = math.prod(order.size), DTYPES[order.dtype]
    if channel_dim is None or order.size[channel_dim] == 1:
        return library.Elements(count, 1, count, dtype)
    return library.Elements(count, order.size[channel_dim], order.stride[channel_dim], dtype)


def sign(x: Tensor, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    values, positive, inside = torch.empty_like(x), _words(x.numel()), _words(x.numel())
    _call("xk_sign", _elements(memory_order(x)), x, None, closed, values, positive, inside)
    return values, positive, inside


def positive_bits(x: Tensor) -> Tensor:
    positive = _words(x.numel())
    _call("xk_sign", _elements(memory_order(x)), x, None, False, None, positive, None)
    return positive


def signs(positive: Tensor, order: MemoryOrder) -> Tensor:
    values = order.empty()
    _call("xk_signs", _elements(order), positive, values)
    return values


def pass_inside(gradient: Tensor, inside: Tensor, order: MemoryOrder) -> Tensor:
    result = order.empty()
    _call("xk_pass_inside", _elements(order), order.take(gradient), inside, result, None)
    return result


# With a threshold a channel, float32 (channels,), or None; see quantize.binary.sign_product.


def level_bits(
    x: Tensor, threshold: Tensor | None, channel_dim: int, closed: bool | None
) -> tuple[Tensor, Tensor | None]:
    """Where ``x - threshold`` is positive, and, unless ``closed`` is None, where it lies inside, as bits."""
    positive, inside = _words(x.numel()), None if closed is None else _words(x.numel())
    _call("xk_sign", _elements(memory_order(x), channel_dim), x, threshold, bool(closed), None, positive, inside)
    return positive, inside


# They write in the place of the gradient, and add it up over a channel, float32 (channels,), where it is ``summed``.


def pass_level_inside(
    gradient: Tensor, inside: Tensor, order: MemoryOrder, channel_dim: int, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`pass_inside`, and its sums."""
    result, sums = order.take(gradient), torch.empty(order.size[channel_dim], dtype=torch.float32) if summed else None
    _call("xk_pass_inside", _elements(order, channel_dim), result, inside, result, sums)
    return result, sums


def pass_triangle(
    gradient: Tensor, x: Tensor, threshold: Tensor | None, channel_dim: int, summed: bool
) -> tuple[Tensor, Tensor | None]:
    """``gradient * max(0, 2 - 2 |x - threshold|)``, and its sums."""
    order = memory_order(x)
    result, sums = order.take(gradient), torch.empty(order.size[channel_dim], dtype=torch.float32) if summed else None
    _call("xk_pass_triangle", _elements(order, channel_dim), result, x, threshold, result, sums)
    return result, sums


def pixel_words(positive: Tensor, order: MemoryOrder, channel_dim: int) -> Tensor:
    """Bits in memory order as words of pixels, int64 (pixels, words), as :mod:`quantize.packing` has them."""
    count, channels = math.prod(order.size), order.size[channel_dim]
    inner = _elements(order, channel_dim).inner
    if inner == 1 and channels % _WORD == 0:
        return positive.view(-1, channels // _WORD)
    words = torch.empty((count // channels, packing.words_for(channels)), dtype=torch.int64)
    # Channels that lie side by side are pixel by pixel; otherwise `inner` pixels of a channel make an image.
    pixels = count // channels if inner == 1 else inner
    _call("xk_pixel_words", positive, int(inner == 1), count // channels // pixels, channels, pixels, words)
    return words


def _filters(order: MemoryOrder, center: bool) -> library.Filters:
    count, inputs, *kernel = order.size
    _, _, tap_stride = order.filter_strides()
    return library.Filters(count, inputs, math.prod(kernel), tap_stride != 1, center)


def scaled_sign(filters: Tensor, center: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """It keeps alpha a filter, and as bits where C >= 0, and where it is not clamped."""
    values, scale, rows = torch.empty_like(filters), torch.empty(len(filters), dtype=torch.float32), len(filters)
    positive, inside = (_words(filters.numel() // rows, rows) for _ in range(2))
    shape = _filters(memory_order(filters), center)
    _call("xk_scaled_sign", shape, filters, values, scale, positive, inside)
    return values, (scale, positive, inside)


def scaled_sign_gradient(gradient: Tensor, filters: Tensor, center: bool, *kept: Tensor) -> Tensor:
    order = memory_order(filters)
    result, shape = order.empty(), _filters(order, center)
    _call("xk_scaled_sign_gradient", shape, order.take(gradient), *kept, result)
    return result


def filter_signs(filters: Tensor) -> tuple[Tensor, Tensor] | None:
    """Filters (out, c, *kernel) that are +-alpha, as dense weights, uint8 (out, bytes), and alpha, float32 (out,).

    None where one has other values.
    """
    filters = filters.float() if is_plain(filters) else filters.float().contiguous()
    order = memory_order(filters)
    count = len(filters)
    dense = torch.empty((count, packing.filter_bytes(filters.shape)), dtype=torch.uint8)
    scale, valid = torch.empty(count, dtype=torch.float32), ctypes.c_int32()
    _call("xk_filter_signs", _filters(order, False), filters, dense, scale, valid)
    return (dense, scale) if valid.value else None


def step_kernel() -> str | None:
    """The kernel for weights that serve one step: the fastest but for one whose weights take long to bring in order."""
    if "XNORKIT_KERNEL" in os.environ:
        return None
    return next(name for name in reversed(cpu.available_kernels()) if name != "amx")
