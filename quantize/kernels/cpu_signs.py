"""The training backend of the CPU: signs and their gradients by the native library; bits are int64 words."""

import ctypes
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from . import library
from .training import MemoryOrder, is_plain, memory_order

_WORD = 64


def takes(x: Tensor) -> bool:
    """Whether ``x`` is a plain float32 tensor on the CPU, without gaps in memory, and the library is there."""
    return x.dtype == torch.float32 and x.device.type == "cpu" and is_plain(x) and library.load() is not None


def takes_filters(filters: Tensor) -> bool:
    return takes(filters)


def _words(elements: int, rows: int = 1) -> Tensor:
    return torch.empty(rows * -(-elements // _WORD), dtype=torch.int64)


def _call(function: str, *arguments) -> None:
    """Of tensors the addresses."""
    found = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    library.call(function, *found, library.parallel())


def sign(x: Tensor, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    values, positive, inside = torch.empty_like(x), _words(x.numel()), _words(x.numel())
    _call("xk_sign", x, x.numel(), closed, values, positive, inside)
    return values, positive, inside


def positive_bits(x: Tensor) -> Tensor:
    positive = _words(x.numel())
    _call("xk_sign", x, x.numel(), False, None, positive, None)
    return positive


def signs(positive: Tensor, order: MemoryOrder) -> Tensor:
    values = order.empty()
    _call("xk_signs", positive, values.numel(), values)
    return values


def signs_of_rows(dense: Tensor, count: int) -> Tensor:
    """+1 where a bit is set, else -1: of dense rows, uint8 (rows, bytes), the first ``count`` bits, float32."""
    words = F.pad(dense, (0, -dense.shape[1] % (_WORD // 8))).view(torch.int64)
    values = torch.empty((len(words), words.shape[1] * _WORD))
    _call("xk_signs", words, values.numel(), values)
    return values[:, :count]


def pass_inside(gradient: Tensor, inside: Tensor, order: MemoryOrder) -> Tensor:
    result = order.empty()
    _call("xk_pass_inside", order.take(gradient), inside, result.numel(), result)
    return result


def _filters(order: MemoryOrder, center: bool) -> library.Filters:
    count, inputs, *kernel = order.size
    _, _, tap_stride = order.filter_strides()
    return library.Filters(count, inputs, math.prod(kernel), tap_stride != 1, center)


def scaled_sign(filters: Tensor, center: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """It keeps alpha a filter, and as bits where C >= 0, and where it is not clamped."""
    values, scale, rows = torch.empty_like(filters), torch.empty(len(filters)), len(filters)
    positive, inside = (_words(filters.numel() // rows, rows) for _ in range(2))
    shape = _filters(memory_order(filters), center)
    _call("xk_scaled_sign", ctypes.byref(shape), filters, values, scale, positive, inside)
    return values, (scale, positive, inside)


def scaled_sign_gradient(gradient: Tensor, filters: Tensor, center: bool, *kept: Tensor) -> Tensor:
    order = memory_order(filters)
    result, shape = order.empty(), _filters(order, center)
    _call("xk_scaled_sign_gradient", ctypes.byref(shape), order.take(gradient), *kept, result)
    return result
