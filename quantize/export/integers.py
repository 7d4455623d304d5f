"""Packed layers whose sums are those of ONNX's integer operators.

Which operator, with which types, is what runtimes for CPUs compute fast: of the two that are multiplied, one is
signed and the other is not.

- A convolution that ends in bits is a ``QLinearConv``, uint8 by int8. What turns its sums into bits is a threshold
  on whole numbers: the bias moves it to 0, and a large scale saturates the sum to 0 or 255.
- One that ends in floats is a ``QLinearConv`` too where 8 bits hold every sum, else a ``ConvInteger``, int8 by
  uint8, whose sums are int32; onnxruntime has it from 1.24 on and refuses the file before. One with a single output
  channel is too: onnxruntime 1.21 rounds the weights of a convolution whose input is dequantized with one scale.
- A linear layer is a ``MatMulInteger``, uint8 by int8.

Bits between layers are 0 and 255 in uint8. Zero padding is padding with the zero point. So where there is any, the
input becomes 0 and 2 with the zero point 1: a -1, a +1 and, outside, a 0.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .. import packing
from ..kernels import ConvGeometry
from ..packed.fold import bisect
from ..packed.layers import PackedLayer
from .lowering import BitImages, conv_attributes, onnx_node, turn_of, turned

_GAIN = 1024  # makes a sum of 1 saturate
_LARGEST = 255


class _Integer(BitImages):
    """Mixin over a packed layer's class.

    Attributes:
        least_sums: int32 (out,) where the output is bits of whole numbers: a bit is ``sum >= least``, with the
            weights negated where it was ``<=``. Else None.
        turn, output_turn: -1 where a threshold on floats is flipped, else 1; None where it is 1 everywhere.
        output_inverted: bool, which bits of floats are inverted, or None.
    """

    view: tuple[int, ...]  # of one value a channel, over an image

    @torch.no_grad()
    def store_integers(self, inverted: Tensor | None, output_inverted: Tensor | None) -> None:
        """Make the layer's tensors those that its operators take, in the shapes in which they are used.

        Args:
            inverted, output_inverted: which bits of the input and the output are inverted, bool (channels,).
        """
        g, least = self.geometry, None
        signs = packing.unpack_weights(self.dense_weights(), g.filters)
        self.weights, self.prepared = None, True
        if inverted is not None:
            turn = turn_of(inverted).view(g.groups, 1, -1, 1, 1)
            signs = (signs.unflatten(0, (g.groups, -1)) * turn).flatten(0, 1)
        if self.folding.output_bits and not self.window_scale:
            least, negated = _least_sums(self, output_inverted)
            signs[negated] *= -1
        self.register_buffer("least_sums", least)
        self._shape_values(output_inverted)
        self.store_weight(signs.to(torch.int8))
        self.forget_empty_buffers()

    def _shape_values(self, output_inverted: Tensor | None) -> None:
        threshold, turn = turned(self.threshold, self.flip, self.geometry.channels)
        self.threshold = threshold.view(self.view)
        self._keep("turn", turn, bool((turn < 0).any()))
        if self.folding.output_bits and self.least_sums is None:
            threshold, turn = turned(self.output_threshold, self.output_flip, self.geometry.out_channels)
            self.output_threshold = threshold.view(self.view)
            self._keep("output_turn", turn, bool((turn < 0).any()))
            self._keep("output_inverted", output_inverted, output_inverted is not None)
        self._keep("scale", self.scale, self.scale is not None)
        self._keep("bias", self.bias, self.bias is not None)

    def _keep(self, name: str, values: Tensor | None, needed: bool) -> None:
        self.register_buffer(name, values.view(self.view) if needed else None)

    def store_weight(self, signs: Tensor) -> None:
        """Store the weights, int8 (out, in, kh, kw), as the operator takes them."""
        raise NotImplementedError

    def operand(self, x: Tensor, high: int, dtype: torch.dtype) -> Tensor:
        """The input: 0 where its sign is -1, else ``high``: 1 (of floats), 2, or 255 (of bits)."""
        if self.folding.input_bits:
            return x if high == _LARGEST else (x & high).to(dtype)
        condition = _compare(x, self.threshold, self.turn)
        return condition.to(dtype) if high == 1 else _bytes(condition, high).to(dtype)

    def finish(self, y: Tensor, input_scale: Tensor | None) -> Tensor:
        """What the layer computes of its scaled sums."""
        y = y if input_scale is None else self.scale_input(y, input_scale)
        y = y if self.bias is None else y + self.bias
        if not self.folding.output_bits:
            return y.relu() if self.folding.relu else y
        condition = _compare(y, self.output_threshold, self.output_turn)
        return _bits(condition if self.output_inverted is None else condition ^ self.output_inverted)

    def scale_input(self, y: Tensor, input_scale: Tensor) -> Tensor:
        """``y`` times K."""
        return y * input_scale

    def scaled(self, sums: Tensor) -> Tensor:
        """Floats of int32 sums."""
        return sums.float() if self.scale is None else sums.float() * self.scale


class IntegerConv(_Integer):
    """Mixin over a packed convolution's class.

    Buffers:
        weight_bits: +-1 in int8; for ConvInteger 0 and 2 in uint8, whose zero point is 1.
        bias_bits: int32 (out,), the bias of QLinearConv, or None: it is a ConvInteger.
        digit_scale: what one step of QLinearConv's output is worth, of the floats that it stands for.
    """

    view = (1, -1, 1, 1)

    def store_weight(self, signs: Tensor) -> None:
        count, total = signs[0].numel(), signs.sum((1, 2, 3), dtype=torch.int32)
        self.zero_point = int(any(self.geometry.padding) or self.pad is not None)
        self.high = 2 if self.zero_point else _LARGEST if self.folding.input_bits else 1
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
            self.register_buffer("digit_scale", step * scale.flatten().expand(len(signs)).contiguous())
        self.register_buffer("bias_bits", bias)
        self.register_buffer("weight_bits", (signs + 1).to(torch.uint8) if bias is None else signs)

    def convolve(self, image: Tensor, geometry: ConvGeometry, input_scale: Tensor | None) -> Tensor:
        g = geometry
        shape = (image.shape[0], g.out_channels, *g.output_size(*self.image_size(image)))
        attributes = conv_attributes(g)
        if self.bias_bits is None:
            y = self.finish(self.scaled(self.sums(image, shape, attributes)), input_scale)
        else:
            y = self.digits(image, shape, attributes)
            y = y if self.least_sums is not None else self.finish(self.from_digits(y), input_scale)
        return shuffled(y, self.folding.shuffle)

    def sums(self, image: Tensor, shape: tuple[int, ...], attributes: dict[str, Any]) -> Tensor:
        """The sums in int32."""
        inputs = [self.operand(image, 2, torch.int8), self.weight_bits]
        inputs += [_number(1, torch.int8), _number(1, torch.uint8)]
        return onnx_node("ConvInteger", inputs, attributes, shape, torch.int32)

    def digits(self, image: Tensor, shape: tuple[int, ...], attributes: dict[str, Any]) -> Tensor:
        """uint8: bits of the sums, or the sums as :meth:`from_digits` reads them."""
        one, zero = _number(1.0), _number(0, torch.uint8)
        inputs = [self.operand(image, self.high, torch.uint8), one, _number(self.zero_point, torch.uint8)]
        inputs += [self.weight_bits, one, _number(0, torch.int8), _number(self.output_step), zero, self.bias_bits]
        return onnx_node("QLinearConv", inputs, attributes, shape, torch.uint8)

    def from_digits(self, y: Tensor) -> Tensor:
        """The scaled sums."""
        zero = torch.full((len(self.digit_scale),), self.digit_zero, dtype=torch.uint8)
        return onnx_node("DequantizeLinear", [y, self.digit_scale, zero], {"axis": 1}, y.shape)

    def scale_input(self, y: Tensor, input_scale: Tensor) -> Tensor:
        return (y.unflatten(1, (self.geometry.groups, -1)) * input_scale.unsqueeze(2)).flatten(1, 2)


class IntegerLinear(_Integer):
    """Mixin over a packed linear layer's class; its input stays rows. Buffer: weight_bits, int8 (in, out)."""

    view = (-1,)

    def store_weight(self, signs: Tensor) -> None:
        self.register_buffer("weight_bits", signs.flatten(1).t().contiguous())

    def forward(self, input: Tensor) -> Tensor:
        shape = (*input.shape[:-1], self.geometry.out_channels)
        inputs = [self.operand(input, 2, torch.uint8), self.weight_bits, _number(1, torch.uint8)]
        sums = onnx_node("MatMulInteger", inputs, {}, shape, torch.int32)
        if self.least_sums is not None:
            return _bits(sums >= self.least_sums)
        scale = (input - self.threshold).abs().mean(-1, keepdim=True) if self.window_scale else None
        return self.finish(self.scaled(sums), scale)


def _least_sums(layer: PackedLayer, inverted: Tensor | None) -> tuple[Tensor, Tensor]:
    """(least, negated), int32 and bool (out,): the layer's bits are ``sum >= least``, ``-sum >= least`` where negated.

    Its own threshold is on ``sum scale + bias`` in float32, which is evaluated at whole numbers.
    """
    count = math.prod(layer.geometry.filters[1:])

    def bits(sums: Tensor) -> Tensor:
        y = sums.float()
        y = y if layer.scale is None else y * layer.scale
        y = y if layer.bias is None else y + layer.bias
        return torch.where(layer.output_flip, y <= layer.output_threshold, y >= layer.output_threshold)

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
