"""Weights on the device: the dense bits of a file, each filter in whole 32-bit words."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import packing
from ..geometry import ConvGeometry

WORD_BITS = 32


def filter_words(geometry: ConvGeometry) -> int:
    """32-bit words of a filter."""
    return -(-packing.filter_bytes(geometry.filters) * 8 // WORD_BITS)


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """They are int32 (out * words,): still one bit a weight.

    The tile that suits an image is found when a convolution first runs, so ``kernel`` and ``size`` change nothing.
    """
    packing.check_weights(dense, geometry.filters)
    padded = F.pad(dense, (0, -dense.shape[1] % (WORD_BITS // 8))).contiguous()
    return padded.view(torch.int32).flatten()


def dense_weights(weights: Tensor, geometry: ConvGeometry) -> Tensor:
    rows = weights.view(torch.uint8).view(geometry.out_channels, -1)
    return rows[:, : packing.filter_bytes(geometry.filters)].contiguous()


def kernel_name(weights: Tensor) -> str:
    return "triton"
