"""A quantized layer as the 2-D convolution that the bit engine computes, and its tensors in that shape."""

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any, cast

from torch import Tensor

from ..kernels import ConvGeometry
from ..kernels.geometry import Pair
from .adapters import added_zeros, no_padding
from .quantized_layer import QuantizedLayer


def conv2d_form(layer: QuantizedLayer) -> tuple[ConvGeometry, dict[str, Any]]:
    """The layer as a 2-D convolution padded with zeros, and what else it does to its input."""
    if not layer.kernel_size:
        return ConvGeometry(layer.in_features, layer.out_features), {}
    one, none = (1,) * (2 - len(layer.kernel_size)), (0,) * (2 - len(layer.kernel_size))
    pads = tuple(layer._reversed_padding_repeated_twice)  # (left, right) of the last dimension, then of the one before
    geometry = ConvGeometry(
        layer.in_channels,
        layer.out_channels,
        cast(Pair, one + layer.kernel_size),
        cast(Pair, one + layer.stride),
        dilation=cast(Pair, one + layer.dilation),
        groups=layer.groups,
    )
    options: dict[str, Any] = {}
    if layer.padding_mode == "zeros":
        padding = cast(tuple[int, int, int, int], (*none, *pads[-2::-2], *none, *pads[::-2]))
        geometry = dataclasses.replace(geometry, padding=padding)
    else:
        options.update(padding_mode=layer.padding_mode, pads=pads)
    if layer.adapter.pad is not no_padding:
        options["pad"] = _padding_function(layer)
    return geometry, options


def _padding_function(layer: QuantizedLayer):
    """The adapter's padding without the layer's tensors. ValueError where packed layers cannot do it."""
    if len(layer.kernel_size) != 2:
        raise ValueError("a padding of its own is packed for 2-D convolutions only")
    plain = {name: value for name, value in vars(layer).items() if isinstance(value, (bool, int, float, str, tuple))}
    pad = functools.partial(layer.adapter.pad, SimpleNamespace(**plain, channel_dim=layer.channel_dim))
    added_zeros(pad, (32, 32))
    return pad


def to_batch(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """The input of a layer as (N, C, ...) of two or three dimensions: a linear layer's rows are pixels of one image."""
    if not layer.kernel_size:
        return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
    batch = x if x.dim() == len(layer.kernel_size) + 2 else x.unsqueeze(0)
    return batch.unsqueeze(2) if len(layer.kernel_size) == 1 else batch


def from_batch(layer: QuantizedLayer, y: Tensor, x: Tensor) -> Tensor:
    """An output (N, C', ...) in the shape that belongs to the input ``x``."""
    if not layer.kernel_size:
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], y.shape[1])
    batch = y.squeeze(2) if len(layer.kernel_size) == 1 else y
    return batch if x.dim() == len(layer.kernel_size) + 2 else batch.squeeze(0)
