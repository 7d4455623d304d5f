"""Format "packed": packed layers as calls of the functions of :mod:`.functions`, over 1-bit weights.

A layer keeps the tensors that the functions take: dense weights, a scale of 1 and a bias of 0 where there is none, and
thresholds that are turned, so that a bit is ``x turn >= threshold``. Bits are images of floats, +1/2 and -1/2.
"""

import math

import onnx_ir as ir
import torch
from torch import Tensor, nn

from ..kernels import ConvGeometry
from ..packed.codes.expanded import ExpandedLayer
from ..packed.codes.lookup import EvenLevels, has_lookup, most_rows, sign_planes
from ..packed.layers import PackedLayer
from ..packed.pool import PackedMaxPool2d
from ..scheme import QuantizedWeight
from .functions import DOMAIN, DOMAIN_VERSION, conv_name, function
from .level_layers import with_level_call
from .lowering import (
    LoweredLayer,
    Network,
    call,
    conv_attributes,
    keep,
    pool_node,
    replaced,
    size_hint,
    turn_of,
    turned,
)


class BinaryConv(LoweredLayer):
    """A packed convolution, which is a call."""

    weight_bits: Tensor
    scale: Tensor
    bias: Tensor
    turn: Tensor
    output_threshold: Tensor
    output_turn: Tensor

    def __init__(self, layer: PackedLayer, network: Network):
        super().__init__(layer)
        g = layer.geometry
        one = torch.ones(g.out_channels, dtype=torch.float32)
        scale = one if layer.scale is None else layer.scale
        bias = torch.zeros_like(one) if layer.bias is None else layer.bias
        threshold, turn = turned(layer.threshold, layer.flip, g.channels)
        keep(self, weight_bits=layer.dense_weights(), scale=scale, bias=bias, threshold=threshold, turn=turn)
        if layer.folding.output_bits:
            threshold, turn = turned(layer.output_threshold, layer.output_flip, g.out_channels)
            keep(self, output_threshold=threshold, output_turn=turn)

    def convolve(self, image: Tensor, geometry: ConvGeometry, input_scale: Tensor | None) -> Tensor:
        g, fold = geometry, self.layer.folding
        out, channels, *kernel = g.filters
        attributes = {
            **conv_attributes(g),
            "filter_shape": (out, *kernel, channels),
            "filter_bits": (channels * kernel[0] * kernel[1],),
            **size_hint(image),
        }
        inputs = [image, self.weight_bits, self.scale, self.bias]
        inputs += [] if fold.input_bits else [self.threshold, self.turn]
        inputs += [self.output_threshold, self.output_turn] if fold.output_bits else []
        inputs += [] if input_scale is None else [input_scale]
        if fold.shuffle > 1:
            attributes["shuffle"] = fold.shuffle
        name = conv_name(fold.input_bits, fold.output_bits, fold.relu, input_scale is not None, fold.shuffle > 1)
        return call(name, inputs, attributes, (image.shape[0], out, *g.output_size(*image.shape[2:])))


class BinaryLinear(BinaryConv):
    """A packed linear layer, which is a call for an image whose pixels are the rows.

    Where bits go from layer to layer, the image has the sizes of the rows, so that the last layer knows them again.
    """

    def __init__(self, layer: PackedLayer, network: Network):
        super().__init__(layer, network)
        self.rows = network.flow.input_shape.get(layer, ())[:-1]  # the sizes of the example's input but for the last

    def to_image(self, x: Tensor) -> Tensor:
        fold, dims = self.layer.folding, len(self.rows)
        if fold.input_bits or not fold.output_bits:
            return super().to_image(x)
        x = x.flatten(0, dims - 3) if dims > 3 else x[(None,) * (3 - dims)]
        return x.permute(0, 3, 1, 2)

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        fold, dims = self.layer.folding, len(self.rows)
        if fold.output_bits or not fold.input_bits:
            return super().from_image(y, x)
        y = y.permute(0, 2, 3, 1)
        return y.unflatten(0, (-1, *self.rows[1:-2])) if dims > 3 else y[(0,) * (3 - dims)]


def max_pool(pool: PackedMaxPool2d, network: Network) -> nn.Module:
    """A max pooling of bits, which is a call."""
    return replaced(pool, {"turn": turn_of(pool.flip)}, forward=_pool)


def _pool(pool: PackedMaxPool2d, input: Tensor) -> Tensor:
    return pool_node(f"{DOMAIN}::BinaryMaxPool", pool, [input, pool.get_buffer("turn")], version=DOMAIN_VERSION)


def with_call(layer: ExpandedLayer, network: Network) -> nn.Module:
    """An expanded layer that is a call, or whose product is one, where it computes on bits; or else its weight."""
    called = with_level_call(layer, quantized_weight=_weight)
    if called is not None:
        return called
    rows = math.prod(network.flow.input_shape.get(layer, ())[1:-1])
    even = EvenLevels.of(layer.weight_levels) if has_lookup(layer) else None
    if even is None or rows > most_rows(layer.code_bits):
        return replaced(layer, {}, quantized_weight=_weight)
    planes = sign_planes(layer.weight_codes, layer.in_features, layer.code_bits)
    sums = {} if even.are_signs else {"factors": even.weights.unsqueeze(1), "middle": even.middle}
    return replaced(layer, {"sign_bits": planes, **sums}, product=_product)


def _product(layer: ExpandedLayer, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """``sum_j c_j (x * s_j) + m sum(x)``, as :mod:`quantize.packed.codes.lookup` has it."""
    planes, outputs = layer.code_bits, layer.out_features
    attributes = {"filter_shape": (planes * outputs, layer.in_features), "filter_bits": (layer.in_features,)}
    sums = call("SignMatMul", [x, layer.get_buffer("sign_bits")], attributes, (*x.shape[:-1], planes * outputs))
    if "factors" not in layer._buffers:  # the weight is signs
        return sums, layer.weight_scale
    y = (sums.unflatten(-1, (planes, outputs)) * layer.get_buffer("factors")).sum(-2)
    return y + layer.get_buffer("middle") * x.sum(-1, keepdim=True), layer.weight_scale


def _weight(layer: ExpandedLayer) -> QuantizedWeight:
    count = math.prod(layer.filter_shape[1:]) * layer.code_bits
    attributes = {"filter_shape": layer.filter_shape, "filter_bits": (count,)}
    attributes |= {"code_shape": (0, -1, layer.code_bits), "bit_values": tuple(2**i for i in range(layer.code_bits))}
    inputs = [layer.weight_codes, layer.weight_levels]
    return QuantizedWeight(call("BinaryWeight", inputs, attributes, layer.filter_shape), layer.weight_scale)


def add_functions(model: ir.Model) -> None:
    """Add the bodies of the functions of ours that ``model`` calls, in place."""
    for name in sorted({node.op_type for node in model.graph if node.domain == DOMAIN}):
        body = ir.serde.deserialize_function(function(name))
        model.functions[body.identifier()] = body
        model.opset_imports[DOMAIN] = DOMAIN_VERSION
