"""Signs to bits: floats, or the signs that a convolution wrote, to words."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import packing
from ..epilogue import AT_ZERO, Binarize
from .arguments import FLOATS, bare, check_indices, checked, checked_flip, device_of, on

PIXELS, WORDS = 64, 2  # of a block: 4096 values in, coalesced along whichever of the two is contiguous


@triton.jit
def signs_to_words(bits):
    """Bool [rows, 32 n] to int32 [rows, n], the first column in the least significant bit."""
    rows: tl.constexpr = bits.shape[0]
    words: tl.constexpr = bits.shape[1] // 32
    place = tl.arange(0, 32)[None, None, :]
    return tl.sum(tl.reshape(bits.to(tl.int32), [rows, words, 32]) << place, axis=2)


@triton.jit
def compare(y, threshold, flip, channel, inside):
    """The bits of ``y`` [rows, channels]: ``y >= threshold``, or ``<=`` where flipped."""
    level = tl.zeros_like(channel).to(tl.float32)
    if threshold is not None:
        level = tl.load(threshold + channel, mask=inside, other=0.0)
    bits = y >= level[None, :]
    if flip is not None:
        flipped = tl.load(flip + channel, mask=inside, other=0) != 0
        bits = tl.where(flipped[None, :], y <= level[None, :], bits)
    return bits & inside[None, :]


@triton.jit
def pack_kernel(
    x, words, threshold, flip, pixels, image, image_stride, channel_stride, pixel_stride,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """A block of pixels by words. ``image``: pixels of one; ROW: 32-bit words of a pixel."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * (BLOCK_W * 32) + tl.arange(0, BLOCK_W * 32)
    inside = channel < CHANNELS
    start = (pixel // image).to(tl.int64) * image_stride + (pixel % image).to(tl.int64) * pixel_stride
    address = start[:, None] + (channel.to(tl.int64) * channel_stride)[None, :]
    y = tl.load(x + address, mask=(pixel < pixels)[:, None] & inside[None, :], other=0).to(tl.float32)
    word = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    mask = (pixel < pixels)[:, None] & (word < ROW)[None, :]
    packed = signs_to_words(compare(y, threshold, flip, channel, inside))
    tl.store(words + pixel[:, None] * ROW + word[None, :], packed, mask=mask)


def row_words(channels: int) -> int:
    """32-bit words of a pixel: two a word of :mod:`quantize.packing`, whose halves lie in memory low half first."""
    return 2 * packing.words_for(channels)


def pack(x: Tensor, binarize: Binarize = AT_ZERO) -> Tensor:
    """``x`` may be bfloat16 or float16 too, and is compared as it is: float32 holds all values."""
    if x.dim() != 4 or x.dtype not in (*FLOATS, torch.int8):
        problem = f"x is {bare(x.dtype)} {tuple(x.shape)}"
        raise ValueError(f"{problem}; it must be {', '.join(map(bare, FLOATS))} (N, C, H, W)")
    device, (batch, channels, height, width) = device_of("x", x), x.shape
    image, row = height * width, row_words(channels)
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        x, strides = x.contiguous(), (channels * image, image, 1)
    else:
        strides = (channels * image, 1, channels)
    threshold = checked("threshold", binarize.threshold, torch.float32, (channels,), device)
    words = torch.empty((batch, height, width, row // 2), dtype=torch.int64, device=device)
    check_indices("the bits of x", batch * image * row)
    grid = (triton.cdiv(batch * image, PIXELS), triton.cdiv(row, WORDS))
    with on(device):
        pack_kernel[grid](
            x, words.view(torch.int32), threshold, checked_flip(binarize.flip, channels, device), batch * image, image,
            *strides, CHANNELS=channels, ROW=row, BLOCK_P=PIXELS, BLOCK_W=WORDS, enable_fp_fusion=False,
        )  # fmt: skip
    return words
