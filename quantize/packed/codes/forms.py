"""Convolutions of every kind as those of the kernels, which have two dimensions, and signs on both sides.

A *form* holds a layer's weights bit by bit, ``sum_j 2^j t_j`` with signs t_j, and convolves signs with them:

- linear layers and convolutions of one or two dimensions are one convolution (:class:`Flat`);
- one of three is one of all slices with the filters of all depths, whose results are added up along the depth
  (:class:`Volume`);
- a transposed one with stride s is s convolutions a dimension, each of a part of the taps, whose outputs lie s apart
  (:class:`Transposed`).
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import kernels, packing
from ...binary.conv2d_form import conv2d_form
from ...binary.quantized_layer import QuantizedLayer
from ...kernels import Binarize, ConvGeometry, Epilogue, PreparedWeights
from ...kernels.geometry import Pair
from ...ste import plus_minus
from .. import ops
from ..layers import regular

_SUMS = Epilogue(output="int32")


class Form(Protocol):
    """A layer's weights, and how signs are convolved with them."""

    def weighted_sums(self, x: Tensor, bits: int, binarize: Binarize) -> Tensor:
        """``sum_ij 2^(i+j) (s_i * t_j)`` of the planes of an input, (bits * N, C, ...), float32 (N, out, ...)."""

    def inside_sums(self, size: torch.Size) -> Tensor:
        """``sum_j 2^j (1 * t_j)`` of an input of ``size``: what the taps inside it add up to, (1, out, ...)."""


def form_of(layer: QuantizedLayer, weights: Tensor) -> Form | None:
    """The form of a layer; None where only the reference would compute.

    ``weights`` are its filters (out, in / groups, ...), float, as odd integers of ``layer.scheme.weight_bits`` bits.
    """
    kind = Transposed if layer.transposed else Volume if len(layer.kernel_size) == 3 else Flat
    form = kind(layer, weights)
    return None if form.backend is kernels.reference else form


class BitPlanes(NamedTuple):
    """The bits of filters in the order of the kernels.

    Attributes:
        weights: plane by plane inside a group.
        geometry: of the convolution with all of them.
        bits: of a weight.
    """

    weights: PreparedWeights
    geometry: ConvGeometry
    bits: int

    @classmethod
    def of(cls, filters: Tensor, bits: int, geometry: ConvGeometry) -> "BitPlanes":
        """Filters (out, in / groups, kh, kw), odd integers of so many bits, of a convolution of this geometry."""
        codes = ((filters + 2**bits - 1) / 2).to(torch.uint8).unflatten(0, (geometry.groups, -1))
        planes = torch.stack([(codes >> j) & 1 for j in range(bits)], dim=1).flatten(0, 2)
        geometry = dataclasses.replace(geometry, out_channels=len(planes))
        dense = packing.pack_weights(plus_minus(planes > 0, torch.float32))
        return cls(kernels.prepare_weights(dense, geometry), geometry, bits)

    def weighted_sums(self, x: Tensor, bits: int, binarize: Binarize) -> Tensor:
        """See :meth:`Form.weighted_sums`; x (bits * N, C, H, W)."""
        x, (backend, data) = regular(x), self.weights
        sums = backend.conv2d_float(x, data, self.geometry, _SUMS, ops.layout_of(x), binarize)
        return self._weighted(sums, bits)

    def weighted_sums_of_words(self, words: Tensor, bits: int) -> Tensor:
        """The same of an input that is packed already, (bits * N, H, W, words)."""
        backend, data = self.weights
        return self._weighted(backend.conv2d(words, data, self.geometry, _SUMS), bits)

    def _weighted(self, sums: Tensor, bits: int) -> Tensor:
        parts = sums.unflatten(1, (self.geometry.groups, self.bits, -1)).unflatten(0, (bits, -1))
        total = parts[0, :, :, 0].float()
        for i in range(bits):
            for j in range(self.bits):
                if i or j:
                    total.add_(parts[i, :, :, j], alpha=2 ** (i + j))
        return total.flatten(1, 2)


class Flat:
    """A linear layer, or a convolution of one or two dimensions."""

    def __init__(self, layer: QuantizedLayer, weights: Tensor):
        geometry, _ = conv2d_form(layer)
        filters = weights.reshape(geometry.filters)
        self.geometry = geometry
        self.planes = BitPlanes.of(filters, layer.scheme.weight_bits, geometry)
        self.totals = filters.sum(1, keepdim=True)
        self.backend = self.planes.weights.backend
        self.weighted_sums = self.planes.weighted_sums

    @functools.cached_property
    def totals_before(self) -> Tensor:
        """What the weights of a filter above and left of a tap add up to, int32 (out, kh + 1, kw + 1)."""
        return F.pad(self.totals.squeeze(1).to(torch.int32), (1, 0, 1, 0)).cumsum(1).cumsum(2).to(torch.int32)

    def inside_sums(self, size: torch.Size) -> Tensor:
        g = self.planes.geometry
        if not any(g.padding):
            return self.totals.sum((2, 3)).view(1, -1, 1, 1)
        top, left, bottom, right = g.padding
        image = F.pad(self.totals.new_ones((1, 1, *size)), (left, right, top, bottom))
        return F.conv2d(image, self.totals, None, g.stride, 0, g.dilation)


class Depth(NamedTuple):
    """The first of the three dimensions of a convolution; ``front`` and ``back`` are its zeros."""

    kernel: int
    stride: int
    dilation: int
    front: int
    back: int

    @classmethod
    def of(cls, layer: QuantizedLayer) -> "Depth":
        *_, front, back = layer._reversed_padding_repeated_twice
        return cls(layer.kernel_size[0], layer.stride[0], layer.dilation[0], front, back)

    def outputs(self, slices: int) -> int:
        """How many output slices so many of the input have."""
        return (slices + self.front + self.back - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


def slice_geometry(layer: QuantizedLayer, channels: int, filters: int) -> ConvGeometry:
    """Of a layer of three dimensions the convolution in the last two, of so many channels and filters."""
    left, right, top, bottom, *_ = layer._reversed_padding_repeated_twice
    return ConvGeometry(
        channels,
        filters,
        cast(Pair, layer.kernel_size[1:]),
        cast(Pair, layer.stride[1:]),
        (top, left, bottom, right),
        cast(Pair, layer.dilation[1:]),
        layer.groups,
    )


class Volume:
    """A convolution of three dimensions: ``y[d] = sum_k conv2d(x[d s + k dilation - padding], w[k])``."""

    def __init__(self, layer: QuantizedLayer, weights: Tensor):
        self.pads, self.stride, self.dilation = layer._reversed_padding_repeated_twice, layer.stride, layer.dilation
        self.depth, self.groups = Depth.of(layer), layer.groups
        # The filters of all depths, depth by depth inside a group.
        filters = weights.unflatten(0, (layer.groups, -1)).movedim(3, 1).flatten(0, 2)
        geometry = slice_geometry(layer, layer.in_channels, len(filters))
        self.planes = BitPlanes.of(filters, layer.scheme.weight_bits, geometry)
        self.totals = weights.sum(1, keepdim=True)
        self.backend = self.planes.weights.backend

    def weighted_sums(self, x: Tensor, bits: int, binarize: Binarize) -> Tensor:
        depth, (kernel, stride, dilation, front, _) = x.shape[2], self.depth
        slices = self.planes.weighted_sums(x.transpose(1, 2).flatten(0, 1), bits, binarize)
        slices = slices.unflatten(1, (self.groups, kernel, -1)).unflatten(0, (-1, depth))
        count = self.depth.outputs(depth)
        batch, _, groups, _, out, *size = slices.shape
        total = slices.new_zeros((batch, count, groups, out, *size))
        for k in range(kernel):
            shift = k * dilation - front
            first = max(0, -(shift // stride))  # the first and last output whose slice is there
            last = min(count - 1, (depth - 1 - shift) // stride)
            if first <= last:
                start = first * stride + shift
                total[:, first : last + 1] += slices[:, start : start + (last - first) * stride + 1 : stride, :, k]
        return total.flatten(2, 3).transpose(1, 2)

    def inside_sums(self, size: torch.Size) -> Tensor:
        image = F.pad(self.totals.new_ones((1, 1, *size)), self.pads)
        return F.conv3d(image, self.totals, None, self.stride, 0, self.dilation)


class Phase(NamedTuple):
    """Every s-th output of a transposed convolution, in one dimension, which r of the taps make: r, r + s, ...

    Output ``o = s m + r - p`` is ``sum_u x[m - u] w[r + s u]``: a convolution with the taps in reverse order.

    Attributes:
        taps: of the kernel, in the order of the convolution.
        first: the first output.
        before, after: zeros around the input.
        skip: results of the convolution that belong to outputs before the first.
    """

    taps: list[int]
    first: int
    before: int
    after: int
    skip: int


def phases(kernel: int, stride: int, padding: int, output_padding: int) -> Iterator[Phase]:
    """Those of one dimension; one without taps has outputs that are zero."""
    for r in range(stride):
        taps = list(range(r, kernel, stride))[::-1]
        lowest = -((r - padding) // stride)  # m of the first output
        before = len(taps) - 1 - lowest
        after = (kernel - 1 - padding - r + output_padding) // stride
        yield Phase(taps, stride * lowest + r - padding, max(before, 0), max(after, 0), max(-before, 0))


class Transposed:
    """A transposed convolution of one or two dimensions without dilation."""

    def __init__(self, layer: QuantizedLayer, weights: Tensor):
        lead = (1,) * (2 - len(layer.kernel_size))
        self.kernel, self.stride = (*lead, *layer.kernel_size), (*lead, *layer.stride)
        self.padding, self.output_padding = ((0,) * len(lead) + tuple(v) for v in (layer.padding, layer.output_padding))
        filters, self.out = weights.reshape(*weights.shape[:2], *self.kernel), layer.out_channels
        rows, columns = (
            list(phases(*sizes))
            for sizes in zip(self.kernel, self.stride, self.padding, self.output_padding, strict=True)
        )
        self.parts = [
            (row, column, self._planes(layer, filters, row, column))
            for row in rows
            for column in columns
            if row.taps and column.taps
        ]
        self.totals = filters.sum(1, keepdim=True).transpose(0, 1)
        self.backend = self.parts[0][2].weights.backend

    def _planes(self, layer: QuantizedLayer, filters: Tensor, row: Phase, column: Phase) -> BitPlanes:
        part = filters[:, :, row.taps][:, :, :, column.taps]
        pads = (row.before, column.before, row.after, column.after)
        kernel = (len(row.taps), len(column.taps))
        geometry = ConvGeometry(layer.in_channels, layer.out_channels, kernel, padding=pads, groups=layer.groups)
        return BitPlanes.of(part, layer.scheme.weight_bits, geometry)

    def weighted_sums(self, x: Tensor, bits: int, binarize: Binarize) -> Tensor:
        sy, sx = self.stride
        y = x.new_zeros((len(x) // bits, self.out, *self._output_size(x.shape[2:])))
        words = self.backend.pack(regular(x), binarize)  # once for all parts
        for row, column, planes in self.parts:
            target = y[:, :, row.first :: sy, column.first :: sx]
            if target.numel():
                found = planes.weighted_sums_of_words(words, bits)[:, :, row.skip :, column.skip :]
                target.copy_(found[:, :, : target.shape[2], : target.shape[3]])
        return y

    def _output_size(self, size: torch.Size) -> Iterator[int]:
        each = zip(size, self.stride, self.padding, self.kernel, self.output_padding, strict=True)
        return ((n - 1) * stride - 2 * padding + kernel + more for n, stride, padding, kernel, more in each)

    def inside_sums(self, size: torch.Size) -> Tensor:
        image = self.totals.new_ones((1, 1, *size))
        return F.conv_transpose2d(image, self.totals, None, self.stride, self.padding, self.output_padding)
