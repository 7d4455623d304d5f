"""Bits: the only definition of how +-1 values become bits in Python.

Bit 1 is +1 and bit 0 is -1 (:func:`quantize.ste.sign`). Bits fill a byte or a 64-bit word from the least
significant one; unused bits are zero in activations and weights alike, so that they cancel in the xor.

- *Activations* are words, int64 ``(N, H, W, ceil(C / 64))``: channels innermost, a pixel's channels dense.
- *Weights* are stored dense, uint8 ``(out, ceil(kh * kw * c / 8))``, the bits of a filter in the order
  ``[kh][kw][channel]``: about 1/32 of float32 also where a group has 16 channels.
"""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

WORD_BITS = 64


def words_for(channels: int) -> int:
    """How many 64-bit words hold one bit for each of ``channels`` (>= 1) channels."""
    return math.ceil(channels / WORD_BITS)


def bits_to_bytes(bits: Tensor) -> Tensor:
    """Bool (..., n) to uint8 (..., ceil(n / 8))."""
    bits = F.pad(bits, (0, -bits.shape[-1] % 8))
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=bits.device)
    return (bits.unflatten(-1, (-1, 8)) * powers).sum(-1, dtype=torch.uint8)


def bytes_to_bits(data: Tensor, count: int) -> Tensor:
    """Uint8 (..., n) to its first ``count`` bits, bool (..., count)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=data.device)
    return ((data.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :count].bool()


def codes_to_levels(codes: Tensor, count: int, bits: int, levels: Tensor) -> Tensor:
    """What codes stand for, (rows, count): uint8 (rows, bytes), ``count`` of ``bits`` bits in a row, low bits first."""
    found = bytes_to_bits(codes, count * bits).unflatten(1, (count, bits))
    return levels[(found.long() << torch.arange(bits, device=codes.device)).sum(-1)]


def _bits_to_words(bits: Tensor) -> Tensor:
    """Bool (..., n) to int64 (..., ceil(n / 64))."""
    data = bits_to_bytes(F.pad(bits, (0, -bits.shape[-1] % WORD_BITS)))
    return data.contiguous().view(torch.int64)


def _words_to_bits(words: Tensor, count: int) -> Tensor:
    return bytes_to_bits(words.contiguous().view(torch.uint8), count)


def _signs(bits: Tensor) -> Tensor:
    return bits.float() * 2 - 1


def _check(name: str, tensor: Tensor, dtype: torch.dtype, dims: int, layout: str) -> None:
    if tensor.dtype != dtype or tensor.dim() != dims:
        raise ValueError(
            f"{name} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}; "
            f"it must be {str(dtype).removeprefix('torch.')} {layout}"
        )


def pack_activations(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """The signs of floats (N, C, H, W) as words, int64 (N, H, W, words).

    The bit of channel c is ``x >= threshold[c]``, or ``x <= threshold[c]`` where ``flip[c]`` (a batch norm with
    a negative gamma folded into it). No threshold is 0; NaN gives 0, that is -1.
    """
    _check("x", x, torch.float32, 4, "(N, C, H, W)")
    threshold = x.new_zeros(x.shape[1]) if threshold is None else threshold
    flip = threshold.new_zeros(x.shape[1]) if flip is None else flip
    threshold, flip = threshold.view(1, -1, 1, 1), flip.view(1, -1, 1, 1).bool()
    return _bits_to_words(torch.where(flip, x <= threshold, x >= threshold).movedim(1, -1))


def unpack_activations(words: Tensor, channels: int) -> Tensor:
    """Words (N, H, W, words) as +-1 floats (N, C, H, W)."""
    _check("words", words, torch.int64, 4, "(N, H, W, words)")
    if words.shape[-1] != words_for(channels):
        raise ValueError(
            f"a pixel of {channels} channels has {words_for(channels)} words; the tensor has {words.shape[-1]}"
        )
    return _signs(_words_to_bits(words, channels)).movedim(-1, 1)


def filter_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of one dense filter; ``shape`` is the filters' (out, c, kh, kw)."""
    return math.ceil(math.prod(shape[1:]) / 8)


def pack_weights(filters: Tensor) -> Tensor:
    """Filters (out, c, kh, kw) whose sign counts (+1 where >= 0) as dense weights, uint8 (out, bytes)."""
    _check("filters", filters, torch.float32, 4, "(out, channels a group, kh, kw)")
    return bits_to_bytes((filters >= 0).movedim(1, -1).flatten(1))


def unpack_weights(dense: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Dense weights as +-1 floats of ``shape`` = (out, c, kh, kw)."""
    check_weights(dense, shape)
    out, channels, height, width = shape
    bits = bytes_to_bits(dense, channels * height * width)
    return _signs(bits).view(out, height, width, channels).movedim(-1, 1)


def check_weights(dense: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse dense weights that are not those of filters of ``shape``: size, type, and zero tail bits."""
    _check("weights", dense, torch.uint8, 2, "(out, bytes a filter)")
    expected = (shape[0], filter_bytes(shape))
    if tuple(dense.shape) != expected:
        raise ValueError(f"packed weights of filters {tuple(shape)} are {expected}; got {tuple(dense.shape)}")
    used = math.prod(shape[1:]) % 8
    if used and bool((dense[:, -1] >> used).any()):
        raise ValueError(f"packed weights of filters {tuple(shape)} have bits set past a filter's end: damaged data")


@dataclasses.dataclass(slots=True, eq=False)
class Bits:
    """Words on their way from one packed layer to the next. Anybody else who touches them gets an error, not a number.

    Attributes:
        words: int64, channels innermost, 64 to a word.
    """

    words: Tensor

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise TypeError(f"{getattr(func, '__name__', func)} was called on {_NOT_NUMBERS}")

    def __array__(self, *args, **kwargs):
        raise TypeError(f"a numpy array was asked of {_NOT_NUMBERS}")

    def __getattr__(self, name: str):
        raise AttributeError(f"attribute {name!r} was asked of {_NOT_NUMBERS}")


_NOT_NUMBERS = (
    "the bits that one packed layer hands to the next, which are no numbers; convert the model with an example_input "
    "with which this way through its code is taken, so that the layers are not fused across it"
)
