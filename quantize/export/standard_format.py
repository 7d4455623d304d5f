"""Format "standard": binary layers as ordinary ONNX operators, 8 bits a stored weight.

The layers of a copy of the model get their low-bit weights as buffers. Their forward pass stays the
one of training and evaluation: what a binary layer computes is defined once.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..binary.quantized_layer import QuantizedLayer
from ..packed.layers import PackedLayer
from ..scheme import QuantizedWeight


class _Frozen:
    """Mixin over a binary layer class whose constants are stored in the shapes in which they are used."""

    def quantized_weight(self) -> QuantizedWeight:
        values = self.weight_levels if self.weight_bits is None else self.weight_bits.to(self.weight_scale.dtype)
        return QuantizedWeight(values, self.weight_scale)

    def from_filters(self, filters: Tensor) -> Tensor:
        return filters

    def per_channel(self, values: Tensor) -> Tensor:
        return values if values.dim() == -self.channel_dim else super().per_channel(values)


def lower(model: nn.Module, batch: Any, format: str = "standard") -> tuple[nn.Module, nn.Module]:
    """(the model that the file is compared with, the model that is traced).

    Raises ValueError where ``format`` cannot be had of the model, which is a converted one.
    """
    if any(isinstance(module, PackedLayer) for module in model.modules()):
        raise ValueError(f"format {format!r} needs the model that was converted, not what quantize.convert returned")
    frozen = copy.deepcopy(model)
    freeze(frozen)
    return model, frozen


@torch.no_grad()
def freeze(model: nn.Module) -> None:
    """Store in every binary layer of ``model``, in place, the constants that it computes with.

    A weight of small whole numbers becomes ``weight_bits`` (int8) and ``weight_scale``, 1 where the scheme
    has none; any other weight becomes ``weight_levels``, in float. A pending threshold, which is 0 in
    evaluation, is left out.
    """
    bits_of: dict[int, Tensor] = {}
    for layer in [module for module in model.modules() if isinstance(module, QuantizedLayer)]:
        stored = _stored_weight(layer)
        if stored["weight_bits"] is not None:
            first = bits_of.setdefault(id(layer.weight), stored["weight_bits"])
            if torch.equal(first, stored["weight_bits"]):
                stored["weight_bits"] = first  # layers that share a weight share its bits
        _freeze_layer(layer, stored)


def _stored_weight(layer: QuantizedLayer) -> dict[str, Tensor | None]:
    values, scale = layer.quantized_weight()
    weight = layer.from_filters(values).contiguous()
    bits = weight.to(torch.int8)
    if not torch.equal(bits.to(weight.dtype), weight):
        scale = None if scale is None else layer.per_channel(scale)
        return {"weight_bits": None, "weight_levels": weight, "weight_scale": scale}
    # Without a scale of 1, onnxruntime folds the batch norm that follows into the weights: the sums
    # are no longer whole numbers, and a sum of 0 may come out as -1e-8, which has another sign.
    scale = values.new_ones(len(values)) if scale is None else scale
    return {"weight_bits": bits, "weight_levels": None, "weight_scale": layer.per_channel(scale)}


def _freeze_layer(layer: QuantizedLayer, stored: dict[str, Tensor | None]) -> None:
    bias = None if layer.bias is None else layer.bias.detach()
    if bias is not None and stored["weight_scale"] is not None:
        bias = layer.per_channel(bias)
    pending = layer.threshold is None or layer.unsettled
    threshold = None if pending else layer.per_channel(layer.threshold.detach())
    del layer.bias, layer.threshold
    for name, value in {**stored, "bias": bias, "threshold": threshold}.items():
        if value is None:
            setattr(layer, name, None)  # torch.export fails on some buffers that are None
        else:
            layer.register_buffer(name, value)
    layer.__class__ = type(f"Frozen{type(layer).__name__}", (_Frozen, type(layer)), {})
