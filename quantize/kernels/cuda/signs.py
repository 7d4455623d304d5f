"""The training backend of a GPU; bits are int32 words.

Of weights nothing is kept but themselves: what the backward pass needs of them is computed again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..training import MemoryOrder, is_plain, memory_order
from .arguments import FLOATS, INTERPRETED, on

WORDS = 32  # of a program, 32 elements each
_LARGEST_FILTER = 2**15  # elements that a program holds


def takes(x: Tensor) -> bool:
    """Whether ``x`` is a plain tensor of floats on a CUDA device, without gaps in memory."""
    on_device = x.device.type == "cuda" or INTERPRETED
    return on_device and x.dtype in FLOATS and x.numel() < 2**31 and is_plain(x)


def takes_filters(filters: Tensor) -> bool:
    """Whether a program can hold one of them."""
    inputs, taps = _blocks(filters)
    return takes(filters) and filters.dtype == torch.float32 and inputs * taps <= _LARGEST_FILTER


@triton.jit
def _block(count, WORDS: tl.constexpr):
    """The words of a program, their elements [words, 32], and which of these there are."""
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    element = word.to(tl.int64)[:, None] * 32 + tl.arange(0, 32)[None, :]
    return word, element, element < count


@triton.jit
def _store_bits(bits, words, word, mask, count):
    place = tl.arange(0, 32)[None, :]
    packed = tl.sum((bits & mask).to(tl.int32) << place, axis=1)
    tl.store(words + word, packed, mask=word.to(tl.int64) * 32 < count)


@triton.jit
def _load_bits(words, word, count):
    packed = tl.load(words + word, mask=word.to(tl.int64) * 32 < count, other=0)
    return ((packed[:, None] >> tl.arange(0, 32)[None, :]) & 1) != 0


@triton.jit
def sign_kernel(x, values, positive, inside, count, CLOSED: tl.constexpr, WORDS: tl.constexpr):
    word, element, mask = _block(count, WORDS)
    y = tl.load(x + element, mask=mask, other=0).to(tl.float32)
    if values is not None:
        tl.store(values + element, tl.where(y >= 0, 1.0, -1.0).to(values.dtype.element_ty), mask=mask)
    _store_bits(y >= 0, positive, word, mask, count)
    if inside is not None:
        size = tl.abs(y)
        near = size <= 1 if CLOSED else size < 1
        _store_bits(near, inside, word, mask, count)


@triton.jit
def signs_kernel(positive, values, count, WORDS: tl.constexpr):
    word, element, mask = _block(count, WORDS)
    bits = _load_bits(positive, word, count)
    tl.store(values + element, tl.where(bits, 1.0, -1.0).to(values.dtype.element_ty), mask=mask)


@triton.jit
def pass_kernel(gradient, inside, result, count, WORDS: tl.constexpr):
    word, element, mask = _block(count, WORDS)
    bits = _load_bits(inside, word, count)
    tl.store(result + element, tl.load(gradient + element, mask=mask & bits, other=0), mask=mask)


def _words(x: Tensor) -> Tensor:
    return torch.empty(triton.cdiv(x.numel(), 32), dtype=torch.int32, device=x.device)


def _launch(kernel, device: torch.device, *arguments, **options) -> None:
    count = next(a for a in arguments if isinstance(a, int))
    with on(device):
        kernel[(triton.cdiv(count, 32 * WORDS),)](*arguments, WORDS=WORDS, **options)


def sign(x: Tensor, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Values have the dtype of ``x``."""
    values, positive, inside = torch.empty_like(x), _words(x), _words(x)
    _launch(sign_kernel, x.device, x, values, positive, inside, x.numel(), CLOSED=closed)
    return values, positive, inside


def positive_bits(x: Tensor) -> Tensor:
    positive = _words(x)
    _launch(sign_kernel, x.device, x, None, positive, None, x.numel(), CLOSED=False)
    return positive


def signs(positive: Tensor, order: MemoryOrder) -> Tensor:
    values = order.empty()
    _launch(signs_kernel, values.device, positive, values, values.numel())
    return values


def pass_inside(gradient: Tensor, inside: Tensor, order: MemoryOrder) -> Tensor:
    result = order.empty()
    _launch(pass_kernel, result.device, order.take(gradient), inside, result, result.numel())
    return result


@triton.jit
def _centred(w, mask, CENTER: tl.constexpr, INPUTS: tl.constexpr):
    """``w`` [inputs, taps] less its mean over the inputs."""
    if CENTER and INPUTS > 1:
        w = tl.where(mask, w - (tl.sum(w, axis=0) / INPUTS)[None, :], 0.0)
    return w


@triton.jit
def _scale(w, SIZE: tl.constexpr, CENTER: tl.constexpr):
    """``mean |w|`` of what is clamped where it is centred."""
    size = tl.abs(w)
    if CENTER:
        size = tl.minimum(size, 1.0)
    return tl.sum(tl.sum(size, axis=1), axis=0) / SIZE


@triton.jit
def scaled_sign_kernel(
    weight, gradient, result, filter_stride, input_stride, tap_stride,
    INPUTS: tl.constexpr, TAPS: tl.constexpr, CENTER: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """``alpha sign(C)`` of a filter, or with ``gradient`` the gradient of its weights from that."""
    i, t = tl.arange(0, BLOCK_I)[:, None], tl.arange(0, BLOCK_T)[None, :]
    place = tl.program_id(0).to(tl.int64) * filter_stride + i * input_stride + t * tap_stride
    mask = (i < INPUTS) & (t < TAPS)
    c = _centred(tl.load(weight + place, mask=mask, other=0.0), mask, CENTER, INPUTS)
    alpha = _scale(c, INPUTS * TAPS, CENTER)
    signs = tl.where(c >= 0, 1.0, -1.0)
    y = alpha * signs
    if gradient is not None:
        g = tl.load(gradient + place, mask=mask, other=0.0)
        through_scale = signs * (tl.sum(tl.sum(g * signs, axis=1), axis=0) / (INPUTS * TAPS))
        inside = tl.abs(c) <= 1
        if CENTER:
            y = tl.where(inside & mask, through_scale + alpha * g, 0.0)
            y = _centred(y, mask, CENTER, INPUTS)
        else:
            y = through_scale + tl.where(inside, alpha * g, 0.0)
    tl.store(result + place, y, mask=mask)


def _blocks(filters: Tensor) -> tuple[int, int]:
    return triton.next_power_of_2(filters.shape[1]), triton.next_power_of_2(filters[0, 0].numel())


def _per_filter(filters: Tensor, gradient: Tensor | None, center: bool) -> Tensor:
    result, (inputs, taps) = torch.empty_like(filters), _blocks(filters)
    with on(filters.device):
        scaled_sign_kernel[(len(filters),)](
            filters, gradient, result, *memory_order(filters).filter_strides(),
            INPUTS=filters.shape[1], TAPS=filters[0, 0].numel(), CENTER=center, BLOCK_I=inputs, BLOCK_T=taps,
            num_warps=8 if inputs * taps > 2048 else 4,
        )  # fmt: skip
    return result


def scaled_sign(filters: Tensor, center: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Nothing is kept."""
    return _per_filter(filters, None, center), ()


def scaled_sign_gradient(gradient: Tensor, filters: Tensor, center: bool, *kept: Tensor) -> Tensor:
    return _per_filter(filters, memory_order(filters).take(gradient), center)
