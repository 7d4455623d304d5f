"""Format "standard": binary layers as ordinary ONNX operators, 8 bits a stored weight.

A layer gets its low-bit weight as buffers. Its forward pass stays the one of training and evaluation: what a binary
layer computes is defined once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..binary.quantized_layer import QuantizedLayer
from ..scheme import QuantizedWeight
from .lowering import Network, replaced


def with_stored_weight(layer: QuantizedLayer, network: Network) -> QuantizedLayer:
    """The layer over the constants that it computes with; those that share a weight share its bits."""
    constants = constants_of(layer)
    bits = constants["weight_bits"]
    if bits is not None:
        first = network.bits.setdefault(id(layer._parameters.get("weight", layer)), bits)
        constants["weight_bits"] = first if torch.equal(first, bits) else bits
    return replaced(layer, constants, **STORED)


def constants_of(layer: QuantizedLayer) -> dict[str, Tensor | None]:
    """What a binary layer computes with, by the names of buffers, in the shapes in which it is used.

    A weight of small whole numbers is ``weight_bits`` (int8) and ``weight_scale``, 1 where the scheme has none; any
    other weight is ``weight_levels``, in float. A pending threshold, which is 0 in evaluation, is left out.
    """
    bits, levels, scale = _weight_of(layer)
    bias = None if layer.bias is None else layer.bias.detach()
    if bias is not None and scale is not None:
        bias = layer.per_channel(bias)
    settled = None if layer.unsettled else layer.threshold
    threshold = None if settled is None else layer.per_channel(settled.detach())
    return {
        "weight_bits": bits, "weight_levels": levels, "weight_scale": scale, "bias": bias, "threshold": threshold
    }  # fmt: skip


def _weight_of(layer: QuantizedLayer) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(bits, levels, scale): one of the first two is the weight."""
    values, scale = layer.quantized_weight()
    weight = layer.from_filters(values).contiguous()
    bits = weight.to(torch.int8)
    if not torch.equal(bits.to(weight.dtype), weight):
        return None, weight, None if scale is None else layer.per_channel(scale)
    # Without a scale of 1, onnxruntime folds the batch norm that follows into the weights: the sums
    # are no longer whole numbers, and a sum of 0 may come out as -1e-8, which has another sign.
    scale = values.new_ones(len(values)) if scale is None else scale
    return bits, None, layer.per_channel(scale)


class StoredLayer(QuantizedLayer):
    """How the functions below see a layer over :func:`constants_of`, whose class is its own."""

    weight_bits: Tensor | None
    weight_levels: Tensor  # where there are no bits
    weight_scale: Tensor | None


def stored_weight(layer: StoredLayer) -> QuantizedWeight:
    """The weight of a layer over its constants."""
    values = layer.weight_levels if layer.weight_bits is None else layer.weight_bits.float()
    return QuantizedWeight(values, layer.weight_scale)


def _as_stored(layer: QuantizedLayer, filters: Tensor) -> Tensor:
    return filters


def _per_channel(layer: QuantizedLayer, values: Tensor) -> Tensor:
    return values if values.dim() == -layer.channel_dim else type(layer).per_channel(layer, values)


# The methods of a layer over its constants.
STORED: dict[str, Callable] = {
    "quantized_weight": stored_weight,
    "from_filters": _as_stored,
    "per_channel": _per_channel,
}
