"""Format "packed": packed layers as calls of the functions of :mod:`.functions`, over 1-bit weights."""

import copy
import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..kernels import ConvGeometry
from ..packed.expanded import ExpandedLayer
from ..packed.flow import trace_flow
from ..packed.layers import PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from ..packed.pool import PackedMaxPool2d
from ..scheme import QuantizedWeight
from .functions import DOMAIN, VERSION, conv_name, function
from .lowering import BitImages, conv_attributes, converted, onnx_node, pool_attributes, turn_of, turned


def _call(name: str, inputs: list[Tensor], attributes: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    return onnx_node(f"{DOMAIN}::{name}", inputs, attributes, shape, version=VERSION)


class _CallsConv(BitImages):
    """Mixin over a packed layer's class: its convolution is a call. Bits are images of floats, +1 and -1."""

    def convolve(self, image: Tensor, geometry: ConvGeometry, input_scale: Tensor | None) -> Tensor:
        g, fold = geometry, self.folding
        out, channels, *kernel = g.filters
        size = self.image_size(image)
        attributes = {
            **conv_attributes(g),
            "filter_shape": (out, *kernel, channels),
            "filter_bits": (channels * kernel[0] * kernel[1],),
            "size_hint": tuple(n if isinstance(n, int) else 0 for n in size),
        }
        inputs = [image, self.weight_bits, self.scale, self.bias]
        inputs += [] if fold.input_bits else [self.threshold, self.turn]
        inputs += [self.output_threshold, self.output_turn] if fold.output_bits else []
        inputs += [] if input_scale is None else [input_scale]
        if fold.shuffle > 1:
            attributes["shuffle"] = fold.shuffle
        name = conv_name(fold.input_bits, fold.output_bits, fold.relu, input_scale is not None, fold.shuffle > 1)
        return _call(name, inputs, attributes, (image.shape[0], out, *g.output_size(*size)))


class _CallsConv2d(_CallsConv, PackedConv2d):
    pass


class _CallsConv1d(_CallsConv, PackedConv1d):
    pass


class _CallsLinear(_CallsConv, PackedLinear):
    """Bits go from layer to layer as images whose pixels are the rows, so that the last knows the sizes again.

    Attributes:
        rows: the sizes of the example's input but for the last.
    """

    rows: tuple[int, ...]

    def to_image(self, x: Tensor) -> Tensor:
        if self.folding.input_bits or not self.folding.output_bits:
            return super().to_image(x)
        dims = len(self.rows)
        x = x.flatten(0, dims - 3) if dims > 3 else x[(None,) * (3 - dims)]
        return x.permute(0, 3, 1, 2)

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        if self.folding.output_bits or not self.folding.input_bits:
            return super().from_image(y, x)
        dims, y = len(self.rows), y.permute(0, 2, 3, 1)
        return y.unflatten(0, (-1, *self.rows[1:-2])) if dims > 3 else y[(0,) * (3 - dims)]


class _CallsWeight(ExpandedLayer):
    """Mixin over an expanded layer's class: its weight is a call."""

    def quantized_weight(self) -> QuantizedWeight:
        count = math.prod(self.filter_shape[1:]) * self.code_bits
        attributes = {"filter_shape": self.filter_shape, "filter_bits": (count,)}
        attributes |= {"code_shape": (0, -1, self.code_bits), "bit_values": tuple(2**i for i in range(self.code_bits))}
        inputs = [self.weight_codes, self.weight_levels]
        return QuantizedWeight(_call("BinaryWeight", inputs, attributes, self.filter_shape), self.weight_scale)


class _CallsMaxPool(PackedMaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        batch, channels, *size = input.shape
        shape = (batch, channels, *self.output_size(*size))
        return _call("BinaryMaxPool", [input, self.turn], pool_attributes(self), shape)


_CALLS = {
    PackedConv2d: _CallsConv2d,
    PackedConv1d: _CallsConv1d,
    PackedLinear: _CallsLinear,
    PackedMaxPool2d: _CallsMaxPool,
}


def lower(model: nn.Module, batch: Any) -> tuple[nn.Module, nn.Module]:
    """(the model that the file is compared with, the model that is traced)."""
    model = converted(model, batch)
    lowered = copy.deepcopy(model)
    flow = trace_flow(lowered, batch, lambda module: isinstance(module, PackedLinear))
    call_functions(lowered)
    for layer, shape in flow.input_shape.items():
        layer.rows = shape[:-1]
    return model, lowered


@torch.no_grad()
def call_functions(model: nn.Module) -> None:
    """Make every packed layer of a converted ``model`` a call, in place; the model can be exported, not run.

    Their tensors become those that the functions take: dense weights, a scale of 1 and a bias of 0 where there
    is none, and thresholds that are turned, so that a bit is ``x turn >= threshold``.
    """
    for layer in model.modules():
        if type(layer) not in _CALLS:
            continue
        layer.__class__ = _CALLS[type(layer)]
        if isinstance(layer, PackedLayer):
            _complete(layer)
        else:
            layer.register_buffer("turn", turn_of(layer.flip))
    for layer in [module for module in model.modules() if isinstance(module, ExpandedLayer)]:
        layer.__class__ = type(f"Calls{type(layer).__name__}", (_CallsWeight, type(layer)), {})


def _complete(layer: BitImages) -> None:
    g = layer.geometry
    layer.register_buffer("weight_bits", layer.dense_weights())
    layer.weights, layer.prepared = None, True
    one = torch.ones(g.out_channels, dtype=torch.float32)
    layer.scale = one if layer.scale is None else layer.scale
    layer.bias = torch.zeros_like(one) if layer.bias is None else layer.bias
    layer.threshold, turn = turned(layer.threshold, layer.flip, g.channels)
    layer.register_buffer("turn", turn)
    if layer.folding.output_bits:
        layer.output_threshold, turn = turned(layer.output_threshold, layer.output_flip, g.out_channels)
        layer.register_buffer("output_turn", turn)
    layer.forget_empty_buffers()


def add_functions(model: ir.Model) -> None:
    """Add the bodies of the functions of ours that ``model`` calls, in place."""
    for name in sorted({node.op_type for node in model.graph if node.domain == DOMAIN}):
        body = ir.serde.deserialize_function(function(name))
        model.functions[body.identifier()] = body
        model.opset_imports[DOMAIN] = VERSION
