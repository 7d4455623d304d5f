"""The reference backend: slow, obvious, on any device, in torch alone.

Signatures are those of :mod:`quantize.kernels.cpu`, which is tested against it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import packing
from .geometry import ConvGeometry, Epilogue, Layout, Output


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W) to bits, int64 (N, H, W, words); see :func:`quantize.packing.pack_activations`."""
    return packing.pack_activations(x, threshold, flip)


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Dense weights as :func:`conv2d` reads them: here, as they are."""
    packing.check_weights(dense, geometry.filters)
    return dense


def _sums(words: Tensor, weights: Tensor, geometry: ConvGeometry) -> Tensor:
    """Exact integer sums, as float64 (N, out, H', W')."""
    signs = packing.unpack_activations(words, geometry.channels).double()
    filters = packing.unpack_weights(weights, geometry.filters).to(signs)
    top, left, bottom, right = geometry.padding
    signs = F.pad(signs, (left, right, top, bottom))
    return F.conv2d(signs, filters, None, geometry.stride, 0, geometry.dilation, geometry.groups)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def conv2d(
    words: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output = "float32",
    layout: Layout = "nchw",
) -> Tensor:
    """The binary convolution of bits (N, H, W, words) with dense weights.

    Returns (N, out, H', W') float32 after the epilogue, or int32 sums (no epilogue), in memory order
    ``layout``; or bits, int64 (N, H', W', words).
    """
    epilogue = epilogue or Epilogue()
    y = _sums(words, weights, geometry)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    if output == "int32":
        if not epilogue.is_empty:
            raise ValueError("an int32 output holds bare sums: it takes no scale, bias, input_scale or relu")
        return y.to(torch.int32, memory_format=memory_format)
    y = y.float()
    if epilogue.scale is not None:
        y = y * _per_channel(epilogue.scale)
    if epilogue.input_scale is not None:
        y = y * epilogue.input_scale.repeat_interleave(geometry.out_channels // geometry.groups, dim=1)
    if epilogue.bias is not None:
        y = y + _per_channel(epilogue.bias)
    if epilogue.relu:
        y = y.relu()
    if output == "bits":
        return packing.pack_activations(y, epilogue.threshold, epilogue.flip)
    return y.contiguous(memory_format=memory_format)


def conv2d_float(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output = "float32",
    layout: Layout = "nchw",
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """:func:`pack` and :func:`conv2d` in one call, of floats (N, C, H, W)."""
    return conv2d(pack(x, threshold, flip), weights, geometry, epilogue, output, layout)
