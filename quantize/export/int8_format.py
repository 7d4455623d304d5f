"""Format "int8": packed layers as quantized operators of the ONNX standard, 8 bits a weight, exact for +-1."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..packed.flow import Flow, trace_flow
from ..packed.fold import unshuffle_values
from ..packed.layers import PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from ..packed.pool import PackedMaxPool2d
from . import standard_format
from .integers import IntegerConv, IntegerLinear, shuffled
from .lowering import converted, onnx_node, pool_attributes


def lower(model: nn.Module, batch: Any) -> tuple[nn.Module, nn.Module]:
    """(the model that the file is compared with, the model that is traced)."""
    model = converted(model, batch)
    lowered = copy.deepcopy(model)
    standard_format.freeze(lowered)
    layers = [module for module in lowered.modules() if type(module) in _INTEGER]
    flow = trace_flow(lowered, batch, lambda module: type(module) in _INTEGER)
    inverted = _inverted_bits(layers, flow)
    _shuffle_after_pooling(layers, flow)
    for layer in layers:
        layer.__class__ = _INTEGER[type(layer)]
        layer.store_integers(*inverted[layer])
    return model, lowered


def _shuffle_after_pooling(layers: Sequence[nn.Module], flow: Flow) -> None:
    """Let a max pooling shuffle, in place, instead of the layer before it.

    onnxruntime computes a convolution and a pooling next to it in one order of memory, that with the channels last.
    """
    for pool in _pools(layers):
        source = flow.before[pool]
        pool.shuffle = source.folding.shuffle if isinstance(source, PackedLayer) else 1
        if pool.shuffle > 1:
            source.folding = dataclasses.replace(source.folding, shuffle=1)


def _pools(layers: Sequence[nn.Module]) -> list[PackedMaxPool2d]:
    return [layer for layer in layers if isinstance(layer, PackedMaxPool2d)]


def _inverted_bits(layers: Sequence[nn.Module], flow: Flow) -> dict[nn.Module, list[Tensor | None]]:
    """Which bits of the input and of the output of a packed layer are inverted, bool (channels,) or None.

    The smallest of bits is the largest of inverted bits, so the flipped channels of a max pooling are inverted on both
    sides of it. Of a pooling that follows another, the first of the two is which bits it inverts itself.
    """
    found = {layer: [None, None] for layer in layers}
    for pool in _pools(layers):
        source, target = flow.before[pool], flow.after[pool]
        if isinstance(source, PackedLayer):
            found[source][1] = unshuffle_values(pool.flip, source.folding.shuffle)
        else:
            found[pool][0] = pool.flip ^ source.flip
        if isinstance(target, PackedLayer):
            found[target][0] = pool.flip
    return found


class _IntegerConv2d(IntegerConv, PackedConv2d):
    pass


class _IntegerConv1d(IntegerConv, PackedConv1d):
    pass


class _IntegerLinear(IntegerLinear, PackedLinear):
    pass


class _IntegerMaxPool(PackedMaxPool2d):
    """Of bits that are inverted where the smallest is wanted."""

    def store_integers(self, inverted: Tensor | None, output_inverted: None) -> None:
        change = inverted is not None and bool(inverted.any())
        mask = torch.where(inverted, 255, 0).to(torch.uint8).view(1, -1, 1, 1) if change else None
        self.register_buffer("change", mask)

    def forward(self, input: Tensor) -> Tensor:
        batch, channels, *size = input.shape
        image = input if self.change is None else input ^ self.change
        shape = (batch, channels, *self.output_size(*size))
        return shuffled(onnx_node("MaxPool", [image], pool_attributes(self), shape, torch.uint8), self.shuffle)


_INTEGER = {
    PackedConv2d: _IntegerConv2d,
    PackedConv1d: _IntegerConv1d,
    PackedLinear: _IntegerLinear,
    PackedMaxPool2d: _IntegerMaxPool,
}
