"""Layers that store their weights in bits and expand them when they run.

For schemes whose input stays float or has more than one bit, for transposed and 3-D convolutions, and for
whatever else :mod:`quantize.packed` has no kernel. What they compute is the binary layer's own forward pass.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import packing
from ..binary.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
    BinaryLayer,
    BinaryLinear,
    plain_class,
)
from ..scheme import QuantizedWeight
from . import ops


class ExpandedLayer(BinaryLayer):
    """Mixin over a binary layer class: no ``weight``, but buffers that it is computed from.

    Buffers:
        weight_codes: uint8 (out, bytes); a code of ``code_bits`` bits for each value of a filter, in the
            order of the filter's elements, least significant bit first.
        weight_levels: float (2^code_bits,), the values that codes stand for, in increasing order.
        weight_scale: as in :class:`quantize.QuantizedWeight`, or None.
    """

    trainable = False
    filter_shape: tuple[int, ...]
    code_bits: int

    def quantized_weight(self) -> QuantizedWeight:
        bits = packing.bytes_to_bits(self.weight_codes, math.prod(self.filter_shape[1:]) * self.code_bits)
        shifts = torch.arange(self.code_bits, device=bits.device)
        codes = (bits.unflatten(1, (-1, self.code_bits)).long() << shifts).sum(-1)
        return QuantizedWeight(self.weight_levels[codes].view(self.filter_shape), self.weight_scale)

    def forward(self, input: Tensor, *args, **kwargs) -> Tensor:
        ops.refuse_gradient(input)
        return super().forward(input, *args, **kwargs)


class ExpandedConv1d(ExpandedLayer, BinaryConv1d):
    """A :class:`BinaryConv1d` that stores bits."""


class ExpandedConv2d(ExpandedLayer, BinaryConv2d):
    """A :class:`BinaryConv2d` that stores bits."""


class ExpandedConv3d(ExpandedLayer, BinaryConv3d):
    """A :class:`BinaryConv3d` that stores bits."""


class ExpandedConvTranspose1d(ExpandedLayer, BinaryConvTranspose1d):
    """A :class:`BinaryConvTranspose1d` that stores bits."""


class ExpandedConvTranspose2d(ExpandedLayer, BinaryConvTranspose2d):
    """A :class:`BinaryConvTranspose2d` that stores bits."""


class ExpandedConvTranspose3d(ExpandedLayer, BinaryConvTranspose3d):
    """A :class:`BinaryConvTranspose3d` that stores bits."""


class ExpandedLinear(ExpandedLayer, BinaryLinear):
    """A :class:`BinaryLinear` that stores bits."""


_MORE_VALUES = "it has more values than bits"
_CLASSES = {expanded.__bases__[1]: expanded for expanded in ExpandedLayer.__subclasses__()}


@torch.no_grad()
def expand(layer: BinaryLayer) -> str:
    """Turn a binary layer in evaluation mode into one that stores bits, in place.

    Returns "", or with nothing changed why it cannot.
    """
    values, scale = layer.quantized_weight()
    kind, bits = plain_class(layer), layer.scheme.weight_bits
    if kind is None or bits > 8:
        return "it may use its weight" if kind is None else _MORE_VALUES
    if bits == 1 and bool((values.abs() == 1).all()):
        levels, codes = values.new_tensor([-1.0, 1.0]), (values > 0).to(torch.uint8)
    else:
        levels, codes = values.unique(return_inverse=True)
        if len(levels) > 2**bits:
            return _MORE_VALUES
    coded = (codes.flatten(1).unsqueeze(-1) >> torch.arange(bits, device=codes.device) & 1).bool().flatten(1)
    layer.filter_shape, layer.code_bits = tuple(values.shape), bits
    layer.register_parameter("weight", None)
    layer.register_buffer("weight_codes", packing.bits_to_bytes(coded))
    layer.register_buffer("weight_levels", F.pad(levels, (0, 2**bits - len(levels))))
    layer.register_buffer("weight_scale", None if scale is None else scale.clone())
    layer.__class__ = _CLASSES[kind]
    layer.float_keys = frozenset((*layer._parameters, *layer._buffers)) - {"progress", "weight"}
    return ""
