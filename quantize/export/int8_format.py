"""Format "int8": packed layers as quantized operators of the ONNX standard, 8 bits a weight, exact for +-1.

Which operator, with which types, is what runtimes for CPUs compute fast: of the two that are multiplied, one is
signed and the other is not.

- A convolution that ends in bits is a ``QLinearConv``, uint8 by int8. What turns its sums into bits is a threshold
  on whole numbers: the bias moves it to 0, and a large scale saturates the sum to 0 or 255.
- One that ends in floats is a ``QLinearConv`` too where 8 bits hold every sum, else a ``ConvInteger``, int8 by
  uint8, whose sums are int32; onnxruntime has it from 1.24 on and refuses the file before. One with a single output
  channel is too: onnxruntime 1.21 rounds the weights of a convolution whose input is dequantized with one scale.
- A linear layer is a ``MatMulInteger``, uint8 by int8.

Bits between layers are 0 and 255 in uint8. Zero padding is padding with the zero point. So where there is any, the
input becomes 0 and 2 with the zero point 1: a -1, a +1 and, outside, a 0. The smallest of bits is the largest of
inverted bits, so the flipped channels of a max pooling are inverted on both sides of it.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import packing
from ..kernels import ConvGeometry
from ..packed.fold import bisect, unshuffle_values
from ..packed.layers import PackedLayer
from ..packed.pool import PackedMaxPool2d
from .lowering import LoweredLayer, Network, conv_attributes, keep, onnx_node, pool_node, replaced, turn_of, turned

_GAIN = 1024  # makes a sum of 1 saturate
_LARGEST = 255


class _Integer(LoweredLayer):
    """A packed layer whose sums are those of an integer operator.

    Attributes:
        least_sums: int32 (out,) where the output is bits of whole numbers: a bit is ``sum >= least``, with the
            weights negated where it was ``<=``. Else None.
        turn, output_turn: -1 where a threshold on floats is flipped, else 1; None where it is 1 everywhere.
        output_inverted: bool, which bits of floats are inverted, or None.
    """

    view: tuple[int, ...]  # of one value a channel, over an image
    least_sums: Tensor | None
    turn: Tensor | None
    output_threshold: Tensor
    output_turn: Tensor | None
    output_inverted: Tensor | None
    scale: Tensor | None
    bias: Tensor | None
    weight_bits: Tensor

    def __init__(self, layer: PackedLayer, network: Network):
        super().__init__(layer)
        inverted, output_inverted = _inverted_bits(layer, network)
        g, least = layer.geometry, None
        signs = packing.unpack_weights(layer.dense_weights(), g.filters)
        if inverted is not None:
            turn = turn_of(inverted).view(g.groups, 1, -1, 1, 1)
            signs = (signs.unflatten(0, (g.groups, -1)) * turn).flatten(0, 1)
        if layer.folding.output_bits and not layer.window_scale:
            least, negated = _least_sums(layer, output_inverted)
            signs[negated] *= -1
        keep(self, least_sums=least)
        self._keep_values(output_inverted)
        self.keep_weight(signs.to(torch.int8))

    def _keep_values(self, output_inverted: Tensor | None) -> None:
        """Keep one value a channel each, in the shape in which it is used."""
        layer = self.layer
        values = {"output_inverted": output_inverted, "scale": layer.scale, "bias": layer.bias}
        for name, start, flip, channels in (
            ("", layer.threshold, layer.flip, layer.geometry.channels),
            ("output_", layer.output_threshold, layer.output_flip, layer.geometry.out_channels),
        ):
            threshold, turn = turned(start, flip, channels)
            values |= {f"{name}threshold": threshold, f"{name}turn": turn if bool((turn < 0).any()) else None}
        keep(self, **{name: None if value is None else value.view(self.view) for name, value in values.items()})

    def keep_weight(self, signs: Tensor) -> None:
        """Keep the weights, int8 (out, in, kh, kw), as the operator takes them."""
        raise NotImplementedError

    def operand(self, x: Tensor, high: int, dtype: torch.dtype) -> Tensor:
        """The input: 0 where its sign is -1, else ``high``: 1 (of floats), 2, or 255 (of bits)."""
        if self.layer.folding.input_bits:
            return x if high == _LARGEST else (x & high).to(dtype)
        condition = _compare(x, self.threshold, self.turn)
        return condition.to(dtype) if high == 1 else _bytes(condition, high).to(dtype)

    def finish(self, y: Tensor, input_scale: Tensor | None) -> Tensor:
        """What the layer computes of its scaled sums."""
        fold = self.layer.folding
        y = y if input_scale is None else self.scale_input(y, input_scale)
        y = y if self.bias is None else y + self.bias
        if not fold.output_bits:
            return y.relu() if fold.relu else y
        condition = _compare(y, self.output_threshold, self.output_turn)
        return _bits(condition if self.output_inverted is None else condition ^ self.output_inverted)

    def scale_input(self, y: Tensor, input_scale: Tensor) -> Tensor:
        """``y`` times K."""
        return y * input_scale

    def scaled(self, sums: Tensor) -> Tensor:
        """Floats of int32 sums."""
        return sums.float() if self.scale is None else sums.float() * self.scale


class IntegerConv(_Integer):
    """A packed convolution.

    Buffers:
        weight_bits: +-1 in int8; for ConvInteger 0 and 2 in uint8, whose zero point is 1.
        bias_bits: int32 (out,), the bias of QLinearConv, or None: it is a ConvInteger.
        digit_scale: what one step of QLinearConv's output is worth, of the floats that it stands for.
    """

    view = (1, -1, 1, 1)
    bias_bits: Tensor | None
    digit_scale: Tensor

    def __init__(self, layer: PackedLayer, network: Network):
        super().__init__(layer, network)
        self.shuffle = 1 if _pool_after(layer, network) else layer.folding.shuffle

    def keep_weight(self, signs: Tensor) -> None:
        layer = self.layer
        count, total = signs[0].numel(), signs.sum((1, 2, 3), dtype=torch.int32)
        self.zero_point = int(any(layer.geometry.padding) or layer.pad is not None)
        self.high = 2 if self.zero_point else _LARGEST if layer.folding.input_bits else 1
        # What is summed: S with padding; without, P high, where P = (S + total) / 2.
        unit = 1 if self.zero_point else self.high
        step = 1 if self.zero_point else 2
        bias, self.output_step = None, 1 / _GAIN
        if self.least_sums is not None:
            least = self.least_sums if self.zero_point else -((-self.least_sums - total) // 2)
            bias = 1 - unit * least
        elif 2 * count <= _LARGEST * step and count % step == 0 and len(signs) > 1:  # (S + count) / step is 0 to 255
            bias = torch.full_like(total, count) if self.zero_point else unit * (count - total) // 2
            self.output_step, self.digit_zero = float(unit), count // step
            scale = _number(1) if self.scale is None else self.scale
            keep(self, digit_scale=step * scale.flatten().expand(len(signs)).contiguous())
        keep(self, bias_bits=bias, weight_bits=(signs + 1).to(torch.uint8) if bias is None else signs)

    def convolve(self, image: Tensor, geometry: ConvGeometry, input_scale: Tensor | None) -> Tensor:
        g = geometry
        shape = (image.shape[0], g.out_channels, *g.output_size(*image.shape[2:]))
        attributes = conv_attributes(g)
        if self.bias_bits is None:
            y = self.finish(self.scaled(self.sums(image, shape, attributes)), input_scale)
        else:
            y = self.digits(image, self.bias_bits, shape, attributes)
            y = y if self.least_sums is not None else self.finish(self.from_digits(y), input_scale)
        return shuffled(y, self.shuffle)

    def sums(self, image: Tensor, shape: tuple[int, ...], attributes: dict[str, Any]) -> Tensor:
        """The sums in int32."""
        inputs = [self.operand(image, 2, torch.int8), self.weight_bits]
        inputs += [_number(1, torch.int8), _number(1, torch.uint8)]
        return onnx_node("ConvInteger", inputs, attributes, shape, torch.int32)

    def digits(self, image: Tensor, bias: Tensor, shape: tuple[int, ...], attributes: dict[str, Any]) -> Tensor:
        """uint8: bits of the sums, or the sums as :meth:`from_digits` reads them."""
        one, zero = _number(1.0), _number(0, torch.uint8)
        inputs = [self.operand(image, self.high, torch.uint8), one, _number(self.zero_point, torch.uint8)]
        inputs += [self.weight_bits, one, _number(0, torch.int8), _number(self.output_step), zero, bias]
        return onnx_node("QLinearConv", inputs, attributes, shape, torch.uint8)

    def from_digits(self, y: Tensor) -> Tensor:
        """The scaled sums."""
        zero = torch.full((len(self.digit_scale),), self.digit_zero, dtype=torch.uint8)
        return onnx_node("DequantizeLinear", [y, self.digit_scale, zero], {"axis": 1}, y.shape)

    def scale_input(self, y: Tensor, input_scale: Tensor) -> Tensor:
        return (y.unflatten(1, (self.layer.geometry.groups, -1)) * input_scale.unsqueeze(2)).flatten(1, 2)


class IntegerLinear(_Integer):
    """A packed linear layer; its input stays rows. Buffer: weight_bits, int8 (in, out)."""

    view = (-1,)

    def keep_weight(self, signs: Tensor) -> None:
        keep(self, weight_bits=signs.flatten(1).t().contiguous())

    def forward(self, input: Tensor) -> Tensor:
        shape = (*input.shape[:-1], self.layer.geometry.out_channels)
        inputs = [self.operand(input, 2, torch.uint8), self.weight_bits, _number(1, torch.uint8)]
        sums = onnx_node("MatMulInteger", inputs, {}, shape, torch.int32)
        if self.least_sums is not None:
            return _bits(sums >= self.least_sums)
        scale = (input - self.threshold).abs().mean(-1, keepdim=True) if self.layer.window_scale else None
        return self.finish(self.scaled(sums), scale)


def max_pool(pool: PackedMaxPool2d, network: Network) -> nn.Module:
    """A max pooling of bits that are inverted where the smallest is wanted.

    It shuffles instead of the layer before it: onnxruntime computes a convolution and a pooling next to it in one order
    of memory, that with the channels last. Raises ValueError where hooks hide what stands on its two sides.
    """
    source, shuffle, change = network.flow.before.get(pool), 1, None
    if source is None or pool not in network.flow.after:
        raise ValueError("the layers on both sides of it were not found, which invert bits for it; remove hooks there")
    if isinstance(source, PackedLayer):
        shuffle = source.folding.shuffle
    elif isinstance(source, PackedMaxPool2d) and not torch.equal(pool.flip, source.flip):  # it gets what that inverted
        change = torch.where(pool.flip ^ source.flip, _LARGEST, 0).to(torch.uint8).view(1, -1, 1, 1)

    def forward(lowered: PackedMaxPool2d, input: Tensor) -> Tensor:
        image = input if change is None else input ^ lowered.get_buffer("change")
        return shuffled(pool_node("MaxPool", lowered, [image], dtype=torch.uint8), shuffle)

    return replaced(pool, {"change": change}, forward=forward)


def _pool_after(layer: PackedLayer, network: Network) -> PackedMaxPool2d | None:
    pool = network.flow.after.get(layer)
    return pool if isinstance(pool, PackedMaxPool2d) else None


def _inverted_bits(layer: PackedLayer, network: Network) -> tuple[Tensor | None, Tensor | None]:
    """Which bits of the input and of the output of a packed layer are inverted, bool (channels,) or None."""
    before, after = network.flow.before.get(layer), _pool_after(layer, network)
    return (
        before.flip if isinstance(before, PackedMaxPool2d) else None,
        None if after is None else unshuffle_values(after.flip, layer.folding.shuffle),
    )


def _least_sums(layer: PackedLayer, inverted: Tensor | None) -> tuple[Tensor, Tensor]:
    """(least, negated), int32 and bool (out,): the layer's bits are ``sum >= least``, ``-sum >= least`` where negated.

    Its own threshold is on ``sum scale + bias`` in float32, which is evaluated at whole numbers.
    """
    count = math.prod(layer.geometry.filters[1:])
    threshold, flip = cast(Tensor, layer.output_threshold), cast(Tensor, layer.output_flip)

    def bits(sums: Tensor) -> Tensor:
        y = sums.float()
        y = y if layer.scale is None else y * layer.scale
        y = y if layer.bias is None else y + layer.bias
        return torch.where(flip, y <= threshold, y >= threshold)

    largest = torch.full((layer.geometry.out_channels,), count)
    before, after, at_smallest, at_largest = bisect(bits, -largest, largest)
    negated = at_smallest & ~at_largest
    constant = torch.where(at_smallest, -count, count + 1)
    least = torch.where(at_smallest == at_largest, constant, torch.where(negated, -before, after))
    if inverted is not None:  # not S >= t is -S >= 1 - t
        least, negated = torch.where(inverted, 1 - least, least), negated ^ inverted
    return least.int(), negated


def shuffled(y: Tensor, groups: int) -> Tensor:
    """``y`` (N, C, H, W) with the channels of ``groups`` groups interleaved.

    Not by a ``Gather``: OpenVINO, which moves dequantization past one, then computes something else.
    """
    return y.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2) if groups > 1 else y


def _compare(x: Tensor, threshold: Tensor, turn: Tensor | None) -> Tensor:
    return (x if turn is None else x * turn) >= threshold


def _bits(condition: Tensor) -> Tensor:
    return _bytes(condition, _LARGEST)


def _bytes(condition: Tensor, high: int) -> Tensor:
    """``high`` or 0 in uint8. Not by arithmetic of bytes, which onnxruntime has from 1.21 on."""
    return torch.where(condition, _number(high, torch.uint8), _number(0, torch.uint8))


def _number(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(value, dtype=dtype)
