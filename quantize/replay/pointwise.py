"""Torch's operators between layers as calls of the library: sums, factors and limits of floats, one after the other.

A shortcut of a small ResNet is an addition of a few thousand floats: the library adds them in the time that torch takes
to find out what it is to add. The values are torch's.
"""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels import library
from ..kernels.calls import Call

FUNCTION = "xk_pointwise"
_ADD, _SUBTRACT, _MULTIPLY, _PRELU, _CLAMP, _AFFINE = range(6)
_aten = torch.ops.aten

_BINARY = {
    _aten.add.Tensor: _ADD,
    _aten.add_.Tensor: _ADD,
    _aten.sub.Tensor: _SUBTRACT,
    _aten.sub_.Tensor: _SUBTRACT,
    _aten.mul.Tensor: _MULTIPLY,
    _aten.mul_.Tensor: _MULTIPLY,
    _aten._prelu_kernel.default: _PRELU,
}
_RELU = (_aten.relu.default, _aten.relu_.default)
_LIMITS = (_aten.hardtanh.default, _aten.hardtanh_.default, _aten.clamp.default, _aten.clamp_.default)
_NORMS = (_aten.native_batch_norm.default, _aten._native_batch_norm_legit_no_training.default)


class Pointwise(NamedTuple):
    """A call, its input, its result, and what else it reads."""

    call: Call
    x: Tensor
    result: Tensor
    operand: Tensor


def as_call(operator: Any, arguments: tuple, keywords: dict, result: Any) -> Pointwise | None:
    """The call that makes ``result`` of an operator's arguments; None where there is none."""
    if operator in _NORMS:
        return _of_norm(operator, arguments, result[0])
    if keywords or not isinstance(result, Tensor) or not _is_plain(result):
        return None
    x, *others = arguments
    if operator in _BINARY and len(others) == 1 and isinstance(others[0], Tensor):
        return _of_two(_BINARY[operator], x, others[0], result)
    if operator in _RELU:
        return _limited(x, 0.0, None, result)
    if operator in _LIMITS:
        unlimited: list[float | None] = [-1.0, 1.0] if "hardtanh" in str(operator) else [None, None]
        least, largest = list(others) + unlimited[len(others) :]
        return _limited(x, least, largest, result)
    return None


def _of_two(kind: int, x: Any, operand: Tensor, result: Tensor) -> Pointwise | None:
    if kind in (_ADD, _MULTIPLY) and not _are_alike(x, result):
        x, operand = operand, x
    elements = _elements(result, operand) if _are_alike(x, result) and _is_float(operand) else None
    return None if elements is None else _pointwise(kind, elements, x, operand, result)


def _limited(x: Any, least: float | None, largest: float | None, result: Tensor) -> Pointwise | None:
    if not _are_alike(x, result):
        return None
    least, largest = -float("inf") if least is None else least, float("inf") if largest is None else largest
    elements = library.Elements(x.numel(), 1, x.numel(), 0)
    return _pointwise(_CLAMP, elements, x, torch.tensor([least, largest], dtype=torch.float32), result)


def _of_norm(operator: Any, arguments: tuple, result: Tensor) -> Pointwise | None:
    """A batch norm in evaluation, where torch computes ``x a + b`` with one rounding: tried on what it was given."""
    x, weight, bias, mean, variance, *_ = arguments
    training = operator is _aten.native_batch_norm.default and arguments[5]
    if training or mean is None or not _is_plain(result) or not _are_alike(x, result):
        return None
    factor = torch.rsqrt(variance + arguments[-1])
    factor = factor if weight is None else factor * weight
    shift = (-mean.double() * factor.double() + (0.0 if bias is None else bias.double())).float()
    inner = result.stride(1)
    made = _pointwise(_AFFINE, library.Elements(x.numel(), x.shape[1], inner, 0), x, torch.cat([factor, shift]), result)
    tried = torch.empty_like(result)
    made.call(x.data_ptr(), tried.data_ptr())
    return made if torch.equal(tried, result) else None


def _pointwise(kind: int, elements: library.Elements, x: Tensor, operand: Tensor, result: Tensor) -> Pointwise:
    call = Call(FUNCTION, (ctypes.byref(elements), kind), (operand.data_ptr(),))
    return Pointwise(call, x, result, operand)


def _elements(result: Tensor, operand: Tensor) -> library.Elements | None:
    """The library's view of ``result``, each of its elements with one of ``operand``'s; None where it has no such."""
    count = result.numel()
    if _are_alike(operand, result):
        return library.Elements(count, count, 1, 0)
    channel_dims = [d for d in range(-operand.dim(), 0) if operand.shape[d] != 1]
    if operand.dim() > result.dim() or len(channel_dims) > 1 or not operand.is_contiguous():
        return None
    if not channel_dims:  # one number
        return library.Elements(count, 1, count, 0)
    (dim,) = channel_dims
    if operand.shape[dim] != result.shape[dim]:
        return None
    return library.Elements(count, operand.shape[dim], result.stride(dim), 0)


def _are_alike(x: Any, y: Tensor) -> bool:
    """Whether the elements of two tensors of floats lie in one order."""
    return isinstance(x, Tensor) and _is_float(x) and x.shape == y.shape and x.stride() == y.stride()


def _is_float(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.device.type == "cpu"


def _is_plain(x: Tensor) -> bool:
    """Whether it is of floats without gaps in memory."""
    dense = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return _is_float(x) and x.numel() > 0 and dense
