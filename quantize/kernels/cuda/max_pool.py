"""Max pooling of bits."""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import PoolGeometry
from .arguments import check_indices, checked, checked_flip, device_of, on
from .bits import row_words, signs_to_words

WORDS = 1024  # of a block


@triton.jit
def pool_kernel(
    words, flip, result, pixels,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
    DH: tl.constexpr, DW: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """The or of a window's words, the and where flipped. A padded tap is neither: 0 in the or, all ones in the and."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    word = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    inside = (pixel < pixels)[:, None] & (word < ROW)[None, :]
    y = pixel // OW % OH * SH - TOP
    x = pixel % OW * SW - LEFT
    first = pixel // (OH * OW) * (H * W) + y * W + x
    largest = tl.zeros([BLOCK_P, BLOCK_W], tl.int32)
    smallest = largest - 1
    for tap in range(KH * KW):
        down = tap // KW * DH
        right = tap % KW * DW
        valid = (y + down >= 0) & (y + down < H) & (x + right >= 0) & (x + right < W)
        mask = inside & valid[:, None]
        value = tl.load(words + (first + down * W + right)[:, None] * ROW + word[None, :], mask=mask, other=0)
        largest |= value
        smallest &= tl.where(mask, value, -1)
    if flip is not None:
        channel = tl.program_id(1) * (BLOCK_W * 32) + tl.arange(0, BLOCK_W * 32)
        flipped = tl.load(flip + channel, mask=channel < CHANNELS, other=0) != 0
        flipped = signs_to_words(flipped[None, :])
        largest = (largest & ~flipped) | (smallest & flipped)
    tl.store(result + pixel[:, None] * ROW + word[None, :], largest, mask=inside)


@functools.lru_cache(maxsize=1024)
def _check_windows(geometry: PoolGeometry, size: tuple[int, int]) -> None:
    """ValueError where a window lies in the padding: a maximum needs a value."""
    g = geometry
    for extent, kernel, stride, pad, dilation, outputs in zip(
        size, g.kernel, g.stride, g.padding[:2], g.dilation, g.output, strict=True
    ):
        for start in (o * stride - pad for o in range(outputs)):
            if not any(0 <= start + k * dilation < extent for k in range(kernel)):
                raise ValueError(f"a window of {geometry} lies in the padding: a maximum needs a value")


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    device, row = device_of("words", words), row_words(channels)
    batch, height, width = words.shape[:3]
    checked("words", words, torch.int64, (batch, height, width, row // 2), device)
    _check_windows(geometry, (height, width))
    result = torch.empty((batch, *geometry.output, row // 2), dtype=torch.int64, device=device)
    check_indices("words", max(words.numel(), result.numel()) * 2)
    pixels, block = result.numel() * 2 // row, min(triton.next_power_of_2(row), 32)
    grid = (triton.cdiv(pixels, WORDS // block), triton.cdiv(row, block))
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = geometry.kernel, geometry.stride, geometry.dilation, geometry.output
    with on(device):
        pool_kernel[grid](
            words.view(torch.int32), checked_flip(flip, channels, device), result.view(torch.int32), pixels,
            CHANNELS=channels, ROW=row, H=height, W=width, OH=oh, OW=ow, KH=kh, KW=kw, SH=sh, SW=sw,
            TOP=geometry.padding[0], LEFT=geometry.padding[1], DH=dh, DW=dw, BLOCK_P=WORDS // block, BLOCK_W=block,
            enable_fp_fusion=False,
        )  # fmt: skip
    return result
