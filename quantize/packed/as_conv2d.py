"""Linear layers and convolutions of one and two dimensions as the one operation of the kernels, a 2-D convolution."""

import dataclasses
import functools
from types import SimpleNamespace
from typing import Any, cast

from ..binary.adapters import added_zeros, no_padding
from ..binary.quantized_layer import QuantizedLayer
from ..kernels import ConvGeometry
from ..kernels.geometry import Pair


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
