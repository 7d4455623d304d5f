"""The reference backend: slow, obvious, on any device, in torch alone.

Signatures are those of :mod:`quantize.kernels.cpu`, which is tested against it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import packing
from .geometry import ConvGeometry, Epilogue, Layout, Output, PoolGeometry


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W) to bits, int64 (N, H, W, words); see :func:`quantize.packing.pack_activations`."""
    return packing.pack_activations(x, threshold, flip)


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Dense weights as :func:`conv2d` reads them: here, as they are."""
    packing.check_weights(dense, geometry.filters)
    return dense


def dense_weights(weights: Tensor, geometry: ConvGeometry) -> Tensor:
    """The dense weights that :func:`prepare_weights` made ``weights`` from: here, as they are."""
    packing.check_weights(weights, geometry.filters)
    return weights


def _sums(words: Tensor, weights: Tensor, geometry: ConvGeometry) -> Tensor:
    """Exact integer sums, as float64 (N, out, H', W')."""
    signs = packing.unpack_activations(words, geometry.channels).double()
    filters = packing.unpack_weights(weights, geometry.filters).to(signs)
    top, left, bottom, right = geometry.padding
    signs = F.pad(signs, (left, right, top, bottom))
    return F.conv2d(signs, filters, None, geometry.stride, 0, geometry.dilation, geometry.groups)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _finished(y: Tensor, geometry: ConvGeometry, epilogue: Epilogue) -> Tensor:
    """``relu(sums * scale * input_scale + bias)``."""
    if epilogue.scale is not None:
        y = y * _per_channel(epilogue.scale)
    if epilogue.input_scale is not None:
        y = y * epilogue.input_scale.repeat_interleave(geometry.out_channels // geometry.groups, dim=1)
    if epilogue.bias is not None:
        y = y + _per_channel(epilogue.bias)
    return y.relu() if epilogue.relu else y


def _shuffled(y: Tensor, groups: int) -> Tensor:
    """Channels of (N, C, H, W): ``a * n + b``, of ``groups`` groups of n, becomes ``b * groups + a``."""
    if groups < 0 or y.shape[1] % max(groups, 1):
        raise ValueError(f"shuffle is {groups}; it must divide the {y.shape[1]} output channels")
    return y if groups < 2 else y.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


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
        return _shuffled(y, epilogue.shuffle).to(torch.int32, memory_format=memory_format)
    y = _finished(y.float(), geometry, epilogue)
    if output == "bits":
        bits = packing.pack_activations(y, epilogue.threshold, epilogue.flip)
        signs = packing.unpack_activations(bits, geometry.out_channels)
        return packing.pack_activations(_shuffled(signs, epilogue.shuffle))
    return _shuffled(y, epilogue.shuffle).contiguous(memory_format=memory_format)


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


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    """The bits of a max pooling, from bits (N, H, W, words) of ``channels``: int64 (N, H', W', words).

    The bit of a channel is ``x >= threshold``, so the maximum's is the maximum of the signs; it is their minimum
    where ``flip``, bool (channels,): there the bit is ``x <= threshold``.
    """
    signs = packing.unpack_activations(words, channels)
    turn = 1 if flip is None else _per_channel(1 - 2 * flip.to(signs))
    top, left, bottom, right = geometry.padding
    options = zip(geometry.output, geometry.stride, geometry.dilation, geometry.kernel, strict=True)
    needed = [(out - 1) * stride + dilation * (kernel - 1) + 1 for out, stride, dilation, kernel in options]
    bottom, right = max(bottom, needed[0] - top - signs.shape[2]), max(right, needed[1] - left - signs.shape[3])
    padded = F.pad(signs * turn, (left, right, top, bottom), value=-torch.inf)
    y = F.max_pool2d(padded, geometry.kernel, geometry.stride, 0, geometry.dilation)
    y = y[:, :, : geometry.output[0], : geometry.output[1]]
    if y.isinf().any():
        raise ValueError(f"a window of {geometry} lies in the padding: a maximum needs a value")
    return packing.pack_activations(y * turn)
