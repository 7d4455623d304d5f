"""Layers that compute on several bit planes as calls of functions: of a few bits, transposed, and 3-D ones.

What they are in the engine stands in :mod:`quantize.packed.codes.planes`. In the file an input is a whole number from
0 to A = 2^k - 1, or a sign, and a weight an odd whole number from -B to B, whose bits are stored plane by plane. The
sums of their products are exact, and the scale that follows has 1 / (A B) in it.

Large convolutions of floats with signs are calls too: the library looks their sums up, as it does for linear layers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import packing
from ..binary.conv2d_form import conv2d_form, from_batch, to_batch
from ..packed.codes.expanded import ExpandedLayer
from ..packed.codes.lookup import Stacked, convolves_signs
from ..packed.codes.planes import has_planes, integer_weights
from ..scheme import FLOAT_BITS
from .functions import level_name
from .lowering import call, conv_attributes, replaced, size_hint


def with_level_call(layer: ExpandedLayer, **methods: Callable) -> nn.Module | None:
    """The layer as a call; None where there is no function for it. ``methods`` are for a call with an output size."""
    weights = integer_weights(layer) if has_planes(layer) or convolves_signs(layer) else None
    if weights is None:
        return None
    if _is_of_stacked(layer):
        weights = weights.flatten(1, 2)
    signs, largest = layer.scheme.signed_input, 2**layer.scheme.weight_bits - 1
    steps = largest * (1 if signs or _is_of_floats(layer) else _largest_input(layer))
    scale = weights.new_ones(()) if layer.weight_scale is None else layer.weight_scale
    bias = weights.new_zeros(len(weights)) if layer.bias is None else layer.bias
    tensors = {
        "weight_bits": _planes(weights, layer.scheme.weight_bits),
        "scale": (scale.reshape(-1) / steps).expand(len(weights)).contiguous(),
        "bias": bias,
    }
    return replaced(layer, tensors, compute=_compute, **methods)


def _is_of_floats(layer: ExpandedLayer) -> bool:
    return layer.scheme.input_bits == FLOAT_BITS


def _is_of_stacked(layer: ExpandedLayer) -> bool:
    return _is_of_floats(layer) and len(layer.kernel_size) == 3


def _largest_input(layer: ExpandedLayer) -> int:
    return 2 ** (layer.scheme.input_bits or 1) - 1


def _planes(weights: Tensor, bits: int) -> Tensor:
    """The bits of filters (out, channels, ...), odd whole numbers, plane by plane, lowest first: (bits out, bytes)."""
    codes = ((weights + 2**bits - 1) / 2).to(torch.uint8)
    out, channels, *kernel = weights.shape
    codes = codes.reshape(out, channels, math.prod(kernel[:-1]), *kernel[-1:] or (1,))  # the rows of all depths
    return packing.pack_weights(torch.cat([(codes >> j & 1).float() - 0.5 for j in range(bits)]))


def _compute(layer: ExpandedLayer, x: Tensor, output_scale: Tensor | None, *args) -> Tensor:
    if args:  # an output size
        return type(layer).compute(layer, x, output_scale, *args)
    weight_bits, scale, bias = (layer.get_buffer(name) for name in ("weight_bits", "scale", "bias"))
    if output_scale is None:
        return _called(layer, x, [weight_bits, scale, bias])
    return _called(layer, x, [weight_bits, scale, torch.zeros_like(bias)]) * output_scale + layer.per_channel(bias)


def _called(layer: ExpandedLayer, x: Tensor, tensors: list[Tensor]) -> Tensor:
    if _is_of_floats(layer):
        return from_batch(layer, _sign_conv(layer, to_batch(layer, layer.scheme.input(x, layer)), tensors), x)
    signs = layer.scheme.signed_input
    attributes: dict[str, Any] = {"bit_values": tuple(2**j for j in range(layer.scheme.weight_bits))}
    if not signs:
        attributes["input_largest"] = _largest_input(layer)
    if not layer.kernel_size:
        attributes |= _filter_attributes(layer.out_features, layer.in_features, ())
        return call(level_name("Linear", signs), [x, *tensors], attributes, (*x.shape[:-1], layer.out_features))
    batch = to_batch(layer, x)
    volume = len(layer.kernel_size) == 3
    windows = _transposed_window if layer.transposed else _volume_window if volume else _window
    operation, window, size = windows(layer, batch)
    out, channels, *kernel = layer.filter_shape
    kernel = [1] * (2 - len(kernel)) + kernel
    attributes |= _filter_attributes(out, channels, kernel)
    y = call(level_name(operation, signs), [batch, *tensors], attributes | window, (batch.shape[0], out, *size))
    return from_batch(layer, y, x)


def _filter_attributes(out: int, channels: int, kernel: Sequence[int]) -> dict[str, Any]:
    """What a call says of its filters, whose channels lie innermost."""
    return {"filter_shape": (out, *kernel, channels), "filter_bits": (channels * math.prod(kernel),)}


def _sign_conv(layer: ExpandedLayer, batch: Tensor, tensors: list[Tensor]) -> Tensor:
    """A convolution of floats; of three dimensions it is one of stacked slices."""
    stacked = Stacked(layer) if _is_of_stacked(layer) else None
    image = stacked.images(stacked.padded(batch), range(stacked.depth.outputs(batch.shape[2]))) if stacked else batch
    geometry = stacked.geometry if stacked else conv2d_form(layer)[0]
    out, channels, *kernel = geometry.filters
    attributes = _filter_attributes(out, channels, kernel) | conv_attributes(geometry) | size_hint(image)
    y = call("SignConv", [image, *tensors], attributes, (image.shape[0], out, *geometry.output_size(*image.shape[2:])))
    return stacked.volumes(y, batch.shape[2]) if stacked else y


def _window(layer: ExpandedLayer, image: Tensor) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """Operation, attributes and output size of a convolution."""
    geometry, _ = conv2d_form(layer)
    height, width = image.shape[2:]
    return "Conv", conv_attributes(geometry) | size_hint(image), geometry.output_size(height, width)


def _volume_window(layer: ExpandedLayer, volume: Tensor) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """The same of one of three dimensions."""
    left, right, top, bottom, front, back = layer._reversed_padding_repeated_twice
    before, after = (front, top, left), (back, bottom, right)
    window = {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": before + after}
    sizes = zip(volume.shape[2:], before, after, layer.dilation, layer.kernel_size, layer.stride, strict=True)
    size = tuple((n + p + q - d * (k - 1) - 1) // s + 1 for n, p, q, d, k, s in sizes)
    attributes = window | {"dilations": layer.dilation, "group": layer.groups} | size_hint(volume)
    return "Conv3d", attributes, size


def _transposed_window(layer: ExpandedLayer, image: Tensor) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """The same of a transposed convolution."""
    lead = 2 - len(layer.kernel_size)
    one, none = (1,) * lead, (0,) * lead
    kernel, stride = one + layer.kernel_size, one + layer.stride
    padding, more = none + tuple(layer.padding), none + tuple(layer.output_padding)
    sizes = zip(image.shape[2:], kernel, stride, padding, more, strict=True)
    size = tuple((n - 1) * s - 2 * p + k + extra for n, k, s, p, extra in sizes)
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2, "output_padding": more}
    return "ConvTranspose", attributes | {"group": layer.groups}, size
