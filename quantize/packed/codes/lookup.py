"""Layers with weights of few bits whose input stays float: sums are looked up, from bits, instead of added.

Linear layers (:class:`LookedUp`): a weight's bits are signs s_j of planes, ``w = sum_j c_j s_j + m``
(:class:`EvenLevels`), so that a row of the layer is ``sum_j c_j (x * s_j) + m sum(x)``. The kernel takes four inputs at
a time: of their 16 sums with signs, which are formed once a row, each filter takes the one that four of its bits point
to. It reads a bit a weight from memory, where an expanded weight is written and read with 32.

Convolutions whose weights are signs (:class:`SignConv`): the sums are those of four channels of a pixel, which all
filters and all taps that meet the pixel look up. A weight of -1, 0 and 1 is the mean of two signs, and looks the same
sums up twice; the phases of a transposed convolution are filters of one that is not (:class:`Interleaved`);
the slices that a window of three dimensions sees are channels of an image (:class:`Stacked`).
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import kernels, packing
from ...binary.conv2d_form import conv2d_form, from_batch, to_batch
from ...binary.quantized_layer import QuantizedLayer
from ...kernels import ConvGeometry, cpu_layers
from ...kernels.calls import Call
from ...kernels.geometry import Pair
from ...scheme import FLOAT_BITS
from ...ste import plus_minus
from ..ops import layout_of
from .forms import Depth, phases, slice_geometry
from .planes import pads_with_zeros

MOST_ROWS = 64  # times bits of a weight: with more, a product of floats with the expanded weight is faster
SLOW = {"scalar": 4, "neon": 4}  # the same of kernels that look up one by one

# With fewer channels in a group, fewer look-ups of a sum of four of them, or fewer products in an output, a convolution
# of floats is as fast.
_LEAST_CHANNELS, _LEAST_LOOKUPS, _LEAST_PRODUCTS = 128, 512, 512
# Two planes look up twice as often: with more outputs of a filter, expanding the weight is paid for. Of volumes torch's
# own convolution is slower.
MOST_PIXELS_OF_TWO, _MOST_VOXELS_OF_TWO = 400, 4000
# Of the images that slices are stacked in, so that the second cache holds them until they are convolved.
_STACKED_BYTES = 1 << 20


def most_rows(bits: int, kernel: str = "") -> int:
    """Up to how many rows the sums of weights of ``bits`` are looked up; without a kernel, where one is fast."""
    return SLOW.get(kernel, MOST_ROWS) // bits


def most_outputs(layer: QuantizedLayer) -> int | None:
    """Up to how many outputs of a filter a convolution looks its sums up; None: any number."""
    if layer.scheme.weight_bits == 1:
        return None
    return _MOST_VOXELS_OF_TWO if len(layer.kernel_size) == 3 else MOST_PIXELS_OF_TWO


class EvenLevels(NamedTuple):
    """Levels of codes as ``sum_j weights[j] s_j + middle`` with the signs s_j of the code's bits."""

    weights: Tensor
    middle: Tensor

    @property
    def are_signs(self) -> bool:
        """Whether the levels are -1 and +1, so that there is nothing to add up."""
        return self.weights.tolist() == [1.0] and not self.middle

    @classmethod
    def of(cls, levels: Tensor) -> "EvenLevels | None":
        """None where float32 levels, as many as there are codes, are not even, or would not come out exactly."""
        if levels.dtype is not torch.float32:
            return None
        bits = len(levels).bit_length() - 1
        order = torch.arange(bits, device=levels.device)
        weights = (levels[1] - levels[0]) / 2 * 2**order
        middle = levels[0] + weights.sum()
        signs = 2 * (torch.arange(len(levels), device=levels.device)[:, None] >> order & 1) - 1
        return cls(weights, middle) if torch.equal(signs.float() @ weights + middle, levels) else None


class LookedUp:
    """What a linear layer that stores codes computes with where its input stays float.

    Attributes:
        codes: of the weight that this was made of.
    """

    def __init__(self, layer: QuantizedLayer, codes: Tensor, bits: int, levels: Tensor):
        self.codes = codes
        self.even = EvenLevels.of(levels) if codes.device.type == "cpu" and kernels.is_native(codes) else None
        if self.even is not None:
            self.factors, self.middle = self.even.weights.tolist(), float(self.even.middle)
            self.outputs, inputs = layer.out_features, layer.in_features
            self.weights = cpu_layers.prepare_lookup(sign_planes(codes, inputs, bits), inputs)
            self.most_rows = most_rows(bits, cpu_layers.lookup_kernel(self.weights))

    def takes(self, x: Tensor) -> bool:
        """Whether sums of ``x`` are looked up."""
        return self.even is not None and math.prod(x.shape[:-1]) <= self.most_rows

    def compute(self, layer: QuantizedLayer, x: Tensor) -> Tensor | None:
        """The layer's operation on ``x`` and the values of its weight; None where it has to expand it."""
        if not self.takes(x):
            return None
        batch = x.reshape(math.prod(x.shape[:-1]), -1).contiguous()
        planes = cpu_layers.look_up(batch, self.weights, len(self.factors) * self.outputs).split(self.outputs, 1)
        y = planes[0] if self.factors[0] == 1 else planes[0].mul_(self.factors[0])
        for factor, plane in zip(self.factors[1:], planes[1:], strict=True):
            y = y.add(plane, alpha=factor)
        if self.middle:
            y = y.add(batch.sum(1, keepdim=True), alpha=self.middle)
        return y.view(*x.shape[:-1], self.outputs)


def sign_planes(codes: Tensor, inputs: int, bits: int) -> Tensor:
    """The bits of codes (out, bytes), ``inputs`` codes a row, as planes, lowest first: (bits out, ceil(inputs / 8))."""
    planes = packing.bytes_to_bits(codes, inputs * bits).unflatten(1, (inputs, bits)).permute(2, 0, 1)
    return packing.bits_to_bytes(planes.flatten(0, 1))


def has_lookup(layer: QuantizedLayer) -> bool:
    """Whether a linear layer that stores codes may look its sums up."""
    return not layer.kernel_size and layer.scheme.input_bits == FLOAT_BITS


class SignConv:
    """What a convolution of floats that stores signs, or signs and zeros, computes with.

    Attributes:
        codes: of the weight that this was made of.
        weights: None where the layer has to expand it.
        most_pixels: up to how many outputs of a filter it looks up; None: any number.
    """

    def __init__(self, layer: QuantizedLayer, codes: Tensor):
        self.codes = codes
        self.places = Interleaved(layer) if layer.transposed else None
        self.slices = Stacked(layer) if len(layer.kernel_size) == 3 else None
        form = self.places or self.slices
        self.geometry = form.geometry if form else conv2d_form(layer)[0]
        self.out_channels = layer.out_channels
        self.weights: Tensor | None = None
        self.most_pixels: int | None = None
        planes = _mean_planes(layer.quantized_weight().values) if computes_here(codes) else None
        if planes is not None:
            filters = self.places.filters if self.places else lambda plane: plane.reshape(self.geometry.filters)
            dense = [packing.pack_weights(plus_minus(filters(plane), torch.float32)) for plane in planes]
            self.weights = cpu_layers.prepare_sign_conv(dense, self.geometry)
            self.most_pixels = most_outputs(layer) if len(planes) > 1 else None

    def bind(self, layer: QuantizedLayer, x: Tensor, scale: Tensor | None) -> tuple[Call, Tensor] | None:
        """The layer on inputs like ``x`` as one call of the library, see :meth:`.planes.LayerPlanes.bind`."""
        if self.weights is None or self.slices is not None:  # which are stacked first
            return None
        batch = self._batch(layer, x)
        if batch is None:
            return None
        if not all(t is None or t.is_contiguous() for t in (batch, scale, layer.bias)):
            return None
        if scale is not None and scale.numel() != self.out_channels:
            return None
        call, y = self._call(batch, None if scale is None else scale.view(-1), layer.bias)
        return call, from_batch(layer, y, x)

    def compute(self, layer: QuantizedLayer, x: Tensor, scale: Tensor | None) -> Tensor | None:
        """The layer's operation on ``x``, times the scale of its weight; None where it has to expand it."""
        batch = self._batch(layer, x)
        if self.weights is None or batch is None:
            return None
        factor = None if scale is None else scale.reshape(-1).expand(self.out_channels).contiguous()
        if self.slices is not None:
            return from_batch(layer, self._of_volumes(self.slices, batch, factor, layer.bias), x)
        y = self._of_images(batch.contiguous(), factor, layer.bias)
        if layout_of(batch) == "nhwc":  # as torch's convolution does
            y = y.contiguous(memory_format=torch.channels_last)
        return from_batch(layer, y, x)

    def _of_images(self, images: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        call, y = self._call(images, scale, bias)
        call(images.data_ptr(), y.data_ptr())
        return y

    def _of_volumes(self, slices: "Stacked", batch: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        count, size = slices.depth.outputs(batch.shape[2]), batch.shape[3:]
        together = max(1, _STACKED_BYTES // (4 * self.geometry.channels * math.prod(size)))
        y = batch.new_empty((len(batch), self.out_channels, count, *self.geometry.output_size(*size)))
        for volume, result in zip(slices.padded(batch).split(1), y, strict=True):
            for first in range(0, count, together):
                images = slices.images(volume, range(first, min(first + together, count)))
                result[:, first : first + len(images)] = self._of_images(images, scale, bias).transpose(0, 1)
        return y

    def _call(self, batch: Tensor, scale: Tensor | None, bias: Tensor | None) -> tuple[Call, Tensor]:
        weights = cast(Tensor, self.weights)
        if self.places is None:
            return cpu_layers.bind_sign_conv2d(batch, weights, self.geometry, scale, bias)
        height, width = batch.shape[2:]
        size = self.places.output_size(height, width)
        return cpu_layers.bind_sign_conv_transposed2d(
            batch, weights, self.geometry, self.places.places, size, scale, bias
        )

    def _batch(self, layer: QuantizedLayer, x: Tensor) -> Tensor | None:
        """``x`` as images; None where it has more outputs, or not the shape of an input: torch says what is wrong."""
        dims = len(layer.kernel_size)
        if x.dim() not in (dims + 1, dims + 2) or x.shape[-1 - dims] != layer.in_channels:
            return None
        batch = to_batch(layer, x)
        slices = 1 if self.slices is None else self.slices.depth.outputs(batch.shape[2])
        if slices < 1:
            return None
        pixels = len(batch) * slices * math.prod(self.geometry.output_size(*batch.shape[-2:]))
        return batch if self.most_pixels is None or pixels <= self.most_pixels else None


class Stacked:
    """A convolution of three dimensions as one of two: the slices that a window sees are channels of an image.

    An image for each output slice, whose channels are those of the input times the depth of the kernel, in the order of
    a filter: groups stay side by side.

    Attributes:
        geometry: of the convolution of images.
    """

    def __init__(self, layer: QuantizedLayer):
        self.depth = Depth.of(layer)
        self.geometry = slice_geometry(layer, layer.in_channels * self.depth.kernel, layer.out_channels)

    def padded(self, volumes: Tensor) -> Tensor:
        """(N, C, D, H, W) with zeros before the first and behind the last slice."""
        return F.pad(volumes, (0, 0, 0, 0, self.depth.front, self.depth.back))

    def images(self, padded: Tensor, outputs: range) -> Tensor:
        """Of padded volumes (N, C, D, H, W) what some output slices see, (N slices, C depth, H, W)."""
        kernel, stride, dilation, *_ = self.depth
        first, span = outputs[0] * stride, stride * (len(outputs) - 1) + 1
        starts = range(first, first + kernel * dilation, dilation)
        slices = torch.stack([padded[:, :, k : k + span : stride].transpose(1, 2) for k in starts], 3)
        return slices.flatten(2, 3).flatten(0, 1)

    def volumes(self, images: Tensor, depth: int) -> Tensor:
        """Results (N output slices, C', H', W') of an input of ``depth`` slices as (N, C', output slices, H', W')."""
        return images.unflatten(0, (-1, self.depth.outputs(depth))).transpose(1, 2)


class Interleaved:
    """A transposed convolution as one convolution, of the filters of all its phases, see :func:`.forms.phases`.

    Each phase has as many taps, and all see the same rows of zeros around the image, so that some results are nobody's.

    Attributes:
        geometry: of the convolution.
        places: of its results in the output.
    """

    def __init__(self, layer: QuantizedLayer):
        lead = (1,) * (2 - len(layer.kernel_size))
        none = (0,) * len(lead)
        self.sizes = list(
            zip(
                (*lead, *layer.kernel_size),
                (*lead, *layer.stride),
                (*none, *layer.padding),
                (*none, *layer.output_padding),
                strict=True,
            )
        )
        self.phases = [list(phases(*sizes)) for sizes in self.sizes]
        before, after = ([max(getattr(p, side) for p in axis) for axis in self.phases] for side in ("before", "after"))
        rows, columns = (
            tuple((p.first, p.skip + zeros - p.before) for p in axis)
            for axis, zeros in zip(self.phases, before, strict=True)
        )
        self.places = cpu_layers.Interleave(rows, columns)
        self.geometry = ConvGeometry(
            layer.in_channels,
            layer.out_channels * len(rows) * len(columns),
            cast(Pair, tuple(len(axis[0].taps) for axis in self.phases)),
            padding=cast(tuple[int, int, int, int], (*before, *after)),
        )

    def filters(self, of_layer: Tensor) -> Tensor:
        """The filters of the convolution, (phases out, in, taps, taps)."""
        (kh, *_), (kw, *_) = self.sizes
        whole, (rows, columns) = of_layer.reshape(*of_layer.shape[:2], kh, kw), self.phases
        of_columns = torch.stack([whole[..., column.taps] for column in columns], 1)  # they are neighbours in memory
        return torch.cat([of_columns[..., row.taps, :] for row in rows]).flatten(0, 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        each = zip((height, width), self.sizes, strict=True)
        rows, columns = ((n - 1) * stride - 2 * padding + kernel + more for n, (kernel, stride, padding, more) in each)
        return rows, columns


def _mean_planes(values: Tensor) -> list[Tensor] | None:
    """Filters of -1, 0 and 1 as the mean of two planes of signs, true where +1, or as one; None of others."""
    if values.dtype is not torch.float32 or not bool(((values == 0) | (values.abs() == 1)).all()):
        return None
    return [values >= 0, values > 0] if bool((values == 0).any()) else [values > 0]


def convolves_signs(layer: QuantizedLayer) -> bool:
    """Whether a layer with a weight of one bit is a convolution of floats that is faster with looked up sums."""
    return layer.scheme.weight_bits == 1 and not layer.transposed and _is_large(layer)


def has_sign_conv(layer: QuantizedLayer, levels: Tensor) -> bool:
    """The same of all that :class:`SignConv` takes: also of a transposed one, and of a weight of -1, 0 and 1, as the
    ``levels`` of its codes say.
    """
    bits = layer.scheme.weight_bits
    return _is_large(layer) and (bits == 1 or (bits == 2 and levels[:3].tolist() == [-1.0, 0.0, 1.0]))


def _is_large(layer: QuantizedLayer) -> bool:
    """Whether a layer is a convolution of floats, and large enough that forming tables of sums is worth it."""
    if layer.scheme.input_bits != FLOAT_BITS or not layer.kernel_size or not pads_with_zeros(layer):
        return False
    channels, kernel, stride = layer.in_channels // layer.groups, [*layer.kernel_size], [*layer.stride]
    if len(kernel) == 3:
        if layer.transposed:
            return False
        (depth, *kernel), (_, *stride) = kernel, stride
        channels *= depth
    taps, strides = math.prod(kernel), math.prod(stride)
    filters = layer.out_channels // layer.groups
    if not layer.transposed:
        lookups, products = filters * taps / strides, channels * taps
    else:  # a phase has a part of the taps, and all look up the same sums
        divides = all(k % s == 0 for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        if layer.groups > 1 or max(layer.dilation) > 1 or not divides:
            return False
        lookups, products = filters * taps, channels * taps // strides
    return channels >= _LEAST_CHANNELS and lookups >= _LEAST_LOOKUPS and products >= _LEAST_PRODUCTS


def computes_here(codes: Tensor) -> bool:
    """Whether convolutions of such codes are faster with looked up sums on this machine."""
    return codes.device.type == "cpu" and kernels.is_native(codes) and cpu_layers.sign_conv_is_fast()
