"""Layers of several bits on the kernels of one: a convolution as a sum of binary ones, a bit plane with a bit plane.

An input of k bits is ``a = q / A`` with the integer ``q = sum_i 2^i a_i``, A = 2^k - 1, and a weight of l bits
``w = (2 m - B) / B`` with ``m = sum_j 2^j b_j``, B = 2^l - 1 (Zhou et al., *DoReFa-Net*, 2016, eq. 5 and 9). The signs
``s_i = 2 a_i - 1`` and ``t_j = 2 b_j - 1`` of their bits give

    2 q = sum_i 2^i s_i + A,    2 m - B = sum_j 2^j t_j,
    2 A B (a * w) = sum_ij 2^(i+j) (s_i * t_j)  +  A sum_j 2^j (1 * t_j).

The k l convolutions of signs are one call of the kernels, with the planes of the input as images of one batch and those
of the weight as filters. The last sum is what the weights of the window's taps that lie inside the image add up to. All
are integers: exact, where an expanded weight rounds. Inputs that are signs themselves have A = 1 and no last sum.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels, packing
from ..binary.adapters import no_padding
from ..binary.quantized_layer import QuantizedLayer
from ..kernels import Binarize, ConvGeometry, Epilogue, PreparedWeights
from ..ste import plus_minus
from . import ops
from .as_conv2d import conv2d_form, from_image, to_image
from .layers import regular

MOST_PLANES = 8  # of a convolution: with more, one of floats is faster
MOST_BITS = 4
SUMS = Epilogue(output="int32")


class BitPlanes(NamedTuple):
    """The weights of a layer in the order of the kernels.

    Attributes:
        weights: of the planes, plane by plane inside a group.
        geometry: of the convolution with all of them.
        planes: l.
        totals: ``2 m - B`` added up over a filter's inputs, float (out, 1, kh, kw).
    """

    weights: PreparedWeights
    geometry: ConvGeometry
    planes: int
    totals: Tensor

    @property
    def largest(self) -> int:
        """B, by which the products are divided."""
        return 2**self.planes - 1


def bit_planes(values: Tensor, bits: int, geometry: ConvGeometry) -> BitPlanes | None:
    """Weights (out, in / groups, kh, kw) as planes of bits; None where they are no levels ``(2 m - B) / B``.

    ``geometry`` is that of the layer's convolution. None as well where only the reference would compute.
    """
    largest = 2**bits - 1
    codes = ((values * largest + largest) / 2).round()
    if not bool(((codes >= 0) & (codes <= largest)).all()) or not torch.equal((2 * codes - largest) / largest, values):
        return None
    grouped = codes.to(torch.uint8).unflatten(0, (geometry.groups, -1))
    signs = plus_minus(torch.stack([(grouped >> j) & 1 for j in range(bits)], dim=1) > 0, torch.float32).flatten(0, 2)
    stacked = dataclasses.replace(geometry, out_channels=bits * geometry.out_channels)
    weights = kernels.prepare_weights(packing.pack_weights(signs), stacked)
    if weights.backend is kernels.reference:
        return None
    return BitPlanes(weights, stacked, bits, (2 * codes - largest).sum(1, keepdim=True))


class LayerPlanes:
    """What a layer that stores codes computes with, where its bits on both sides are few enough.

    Attributes:
        codes: of the weight that the planes were made of.
        weights: None where the layer has to expand its weight.
    """

    def __init__(self, layer: QuantizedLayer, codes: Tensor):
        self.codes = codes
        self.weights: BitPlanes | None = None
        self._inside: tuple[tuple[int, int], Tensor] | None = None  # of the last size
        if has_planes(layer):
            geometry, _ = conv2d_form(layer)
            filters = layer.quantized_weight().values
            self.weights = bit_planes(filters.reshape(geometry.filters), layer.scheme.weight_bits, geometry)

    def convolve(self, layer: QuantizedLayer, x: Tensor) -> Tensor:
        """``layer.apply_weight`` of the quantized ``x``, which is less the threshold, and the values of the weight."""
        image = to_image(layer, x)
        if layer.scheme.signed_input:
            return from_image(layer, self._of_signs(image), x)
        return from_image(layer, self._of_levels(layer.scheme.input(image, layer), layer.scheme.input_bits), x)

    def _of_signs(self, image: Tensor) -> Tensor:
        w = self.weights
        return _weighted(_sums(image, w, Binarize()), 1, w).div_(w.largest)

    def _of_levels(self, image: Tensor, bits: int) -> Tensor:
        """Of an image of ``bits`` bits in 0 to 1."""
        w, largest = self.weights, 2**bits - 1
        q = image.mul(largest).round_()
        if bits > 1:
            order = torch.contiguous_format if q.is_contiguous() else torch.channels_last
            q = q.to(torch.uint8)
            q = torch.cat([(q >> i) & 1 for i in range(bits)]).to(torch.float32, memory_format=order)
        half = torch.full((image.shape[1],), 0.5, device=image.device)
        y = _weighted(_sums(q, w, Binarize(half)), bits, w)
        return y.add_(self._inside_sums(image), alpha=largest).div_(2 * largest * w.largest)

    def _inside_sums(self, image: Tensor) -> Tensor:
        size, held = (image.shape[2], image.shape[3]), self._inside
        if held is None or held[0] != size:
            held = self._inside = size, inside_sums(self.weights, size)
        return held[1]


def has_planes(layer: QuantizedLayer) -> bool:
    """Whether a layer that stores codes may compute plane by plane."""
    scheme, plain = layer.scheme, getattr(layer, "padding_mode", "zeros") == "zeros"
    inputs, weights = 1 if scheme.signed_input else scheme.input_bits, scheme.weight_bits
    if layer.transposed or len(layer.kernel_size) > 2 or not plain or layer.adapter.pad is not no_padding:
        return False
    if inputs is None or max(inputs, weights) > MOST_BITS:
        return False
    return not layer.kernel_size or inputs * weights <= MOST_PLANES


def inside_sums(w: BitPlanes, size: tuple[int, int]) -> Tensor:
    """``sum_j 2^j (1 * t_j)`` of an image of ``size``, (1, out, H', W'), or (1, out, 1, 1) where it has no border."""
    geometry = w.geometry
    if not any(geometry.padding):
        return w.totals.sum((2, 3)).view(1, -1, 1, 1)
    top, left, bottom, right = geometry.padding
    image = F.pad(w.totals.new_ones((1, 1, *size)), (left, right, top, bottom))
    return F.conv2d(image, w.totals, None, geometry.stride, 0, geometry.dilation)


def _sums(x: Tensor, w: BitPlanes, binarize: Binarize) -> Tensor:
    """Integers (N, planes * out, H', W'), the planes inside the groups."""
    x = regular(x)
    return w.weights.backend.conv2d_float(x, w.weights.data, w.geometry, SUMS, ops.layout_of(x), binarize)


def _weighted(sums: Tensor, bits: int, w: BitPlanes) -> Tensor:
    """``sum_ij 2^(i+j)`` of sums (bits * N, planes * out, H', W'), float32 (N, out, H', W')."""
    groups = w.geometry.groups
    parts = sums.unflatten(1, (groups, w.planes, -1)).unflatten(0, (bits, -1))
    total = parts[0, :, :, 0].float()
    for i in range(bits):
        for j in range(w.planes):
            if i or j:
                total.add_(parts[i, :, :, j], alpha=2 ** (i + j))
    return total.flatten(1, 2)
