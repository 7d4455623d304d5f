"""The reference backend: slow, obvious, on any device, in torch alone.

A :class:`.backend.Backend`, against which the others are tested.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import packing
from .epilogue import AT_ZERO, PLAIN, Binarize, Epilogue, Layout, check_epilogue
from .geometry import ConvGeometry, PoolGeometry


def pack(x: Tensor, binarize: Binarize = AT_ZERO) -> Tensor:
    return packing.pack_activations(x, *binarize)


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Weights stay dense."""
    packing.check_weights(dense, geometry.filters)
    return dense


def dense_weights(weights: Tensor, geometry: ConvGeometry) -> Tensor:
    packing.check_weights(weights, geometry.filters)
    return weights


def kernel_name(weights: Tensor) -> str:
    return "reference"


def _sums(words: Tensor, weights: Tensor, geometry: ConvGeometry) -> Tensor:
    """Exact integer sums, as float64 (N, out, H', W')."""
    signs = packing.unpack_activations(words, geometry.channels).double()
    filters = packing.unpack_weights(weights, geometry.filters).to(signs)
    top, left, bottom, right = geometry.padding
    signs = F.pad(signs, (left, right, top, bottom))
    return F.conv2d(signs, filters, None, geometry.stride, 0, geometry.dilation, geometry.groups)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _scaled(y: Tensor, geometry: ConvGeometry, epilogue: Epilogue) -> Tensor:
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
    words: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue = PLAIN, layout: Layout = "nchw"
) -> Tensor:
    check_epilogue(epilogue, layout)
    y = _sums(words, weights, geometry)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    if epilogue.output == "int32":
        return _shuffled(y, epilogue.shuffle).to(torch.int32, memory_format=memory_format)
    y = _scaled(y.float(), geometry, epilogue)
    if epilogue.output == "bits":
        bits = packing.pack_activations(y, epilogue.threshold, epilogue.flip)
        signs = packing.unpack_activations(bits, geometry.out_channels)
        return packing.pack_activations(_shuffled(signs, epilogue.shuffle))
    return _shuffled(y, epilogue.shuffle).contiguous(memory_format=memory_format)


def conv2d_float(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue = PLAIN,
    layout: Layout = "nchw",
    binarize: Binarize = AT_ZERO,
) -> Tensor:
    return conv2d(pack(x, binarize), weights, geometry, epilogue, layout)


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    """The maximum of the signs; where flipped, their minimum, which is the negative of the negatives' maximum."""
    signs = packing.unpack_activations(words, channels)
    factor = 1 if flip is None else _per_channel(1 - 2 * flip.to(signs))
    top, left, bottom, right = geometry.padding
    options = zip(geometry.output, geometry.stride, geometry.dilation, geometry.kernel, strict=True)
    needed = [(out - 1) * stride + dilation * (kernel - 1) + 1 for out, stride, dilation, kernel in options]
    bottom, right = max(bottom, needed[0] - top - signs.shape[2]), max(right, needed[1] - left - signs.shape[3])
    padded = F.pad(signs * factor, (left, right, top, bottom), value=-torch.inf)
    y = F.max_pool2d(padded, geometry.kernel, geometry.stride, 0, geometry.dilation)
    y = y[:, :, : geometry.output[0], : geometry.output[1]]
    if y.isinf().any():
        raise ValueError(f"a window of {geometry} lies in the padding: a maximum needs a value")
    return packing.pack_activations(y * factor)
