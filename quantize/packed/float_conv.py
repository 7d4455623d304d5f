"""First convolutions of converted models: of floats by the library, straight to the bits of the packed layer behind.

Torch writes the floats of a first layer to memory, orders them anew, and the packed layer reads them again for one bit
each. The library compares sums where they arise. It adds products one after the other, in one of two orders, with one
rounding each, as oneDNN does where there are few channels, or torch's product of unfolded windows: which of the two it
was, if any, is tried on numbers of this module's own, so that a converted model's values stay torch's to the last bit.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels import PLAIN, ConvGeometry, Epilogue, cpu_layers
from ..packing import Bits
from . import ops
from .layers import PackedConv2d
from .ops import BoundCall, BoundModule

MOST_CHANNELS = 4  # of the input: with more, oneDNN adds products in orders of its own, and is fast


class _Made(NamedTuple):
    """What a call was made of.

    Attributes:
        pointer, values: where the weight lies, and what it was then. Its bytes are compared at each call: the library
            reads a copy in its own order, and anybody may write to a parameter.
        prepared: the copy; the call has its address.
        tensors: bias, threshold and flip, which the call reads where they lie.
        to_bits: the result is the reader's bits.
    """

    pointer: int
    values: bytes
    prepared: Tensor
    tensors: tuple[Tensor | None, ...]
    to_bits: bool


class FloatConv2d(nn.Conv2d, BoundModule):
    """``nn.Conv2d`` of few channels; of inputs whose values the library does not give bit by bit it is torch's.

    Attributes:
        readers: the packed convolution that alone reads the output, and of it no more than signs, where there is one.
            It keeps its threshold: what is saved, exported and compiled is a float convolution and its reader.
    """

    readers: tuple[nn.Module, ...] = ()
    unlike: tuple = ()  # the form of inputs for which torch gives other values

    def forward(self, input: Tensor) -> Tensor | Bits:  # type: ignore[override]
        bound = self.bound
        if bound is not None and bound.takes(input) and self._is_made_of(bound.of) and not _is_autocast():
            y = bound(input)
            return Bits(y) if bound.of.to_bits else y
        y = super().forward(input)
        again = not ops.is_followed(input) and self.comes_again(input) and self.last_form != self.unlike
        if again and self._is_plain(input, y):
            self.bound = self._bind(input)
            self.unlike = () if self.bound else self.last_form
        return y

    def _is_plain(self, x: Tensor, y: Tensor) -> bool:
        """Whether it is an input and an output of the library's."""
        tensors = [t for t in (x, y, self.weight, self.bias) if t is not None]
        plain = all(type(t) in (Tensor, nn.Parameter) and t.dtype is torch.float32 for t in tensors)
        return (
            plain
            and x.dim() == 4
            and y.numel() > 0
            and x.is_contiguous()
            and y.is_contiguous()
            and not _is_autocast()
            and not self.weight.requires_grad
            and kernels.is_native(x)
        )

    def _bind(self, x: Tensor) -> BoundCall | None:
        """The call for inputs like ``x``; None where torch adds products in no order that the library has."""
        geometry, weight = geometry_of(self), self.weight.detach()
        generator = torch.Generator().manual_seed(0)
        tried = torch.randn(x.shape, generator=generator)
        expected = super().forward(tried)
        for by_channels in (False, True):
            prepared = cpu_layers.prepare_floats(weight, geometry, by_channels)
            call, found = cpu_layers.bind_conv2d_floats(tried, prepared, geometry, PLAIN._replace(bias=self.bias))
            call(tried.data_ptr(), found.data_ptr())
            if torch.equal(found, expected):
                return self._bound_to(x, prepared, geometry)
        return None

    def _bound_to(self, x: Tensor, prepared: Tensor, geometry: ConvGeometry) -> BoundCall:
        reader = self._reader()
        bias, threshold, flip = self._operands(reader)
        epilogue = Epilogue(None, bias, None, False, threshold, flip, 1, "float32" if reader is None else "bits")
        call, y = cpu_layers.bind_conv2d_floats(x, prepared, geometry, epilogue)
        values = self.weight.detach().numpy().tobytes()
        made = _Made(self.weight.data_ptr(), values, prepared, (bias, threshold, flip), reader is not None)
        return BoundCall(call, x, y, made)

    def _is_made_of(self, made: _Made) -> bool:
        weight, reader = cast(Tensor, self._parameters["weight"]), self._reader()
        return (
            weight.data_ptr() == made.pointer
            and (reader is not None) is made.to_bits
            and all(a is b for a, b in zip(self._operands(reader), made.tensors, strict=True))
            and weight.detach().numpy().tobytes() == made.values
        )

    def _operands(self, reader: PackedConv2d | None) -> tuple[Tensor | None, ...]:
        """Bias, and what the reader compares with."""
        bias = self._parameters["bias"]
        return (bias, None, None) if reader is None else (bias, reader._buffers["threshold"], reader._buffers["flip"])

    def _reader(self) -> PackedConv2d | None:
        """Who gets bits; nobody, where a hook would see them in the place of floats."""
        for reader in self.readers:
            if type(reader) is PackedConv2d and not (reader._forward_pre_hooks or self._forward_hooks):
                return reader
        return None


def geometry_of(layer: nn.Conv2d) -> ConvGeometry:
    """Of a convolution of floats without groups, padded with zeros."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    kernel, stride, dilation = (cast("tuple[int, int]", o) for o in (layer.kernel_size, layer.stride, layer.dilation))
    padding = (top, left, bottom, right)
    return ConvGeometry(layer.in_channels, layer.out_channels, kernel, stride, padding, dilation)


def _is_autocast() -> bool:
    """Whether torch would convolve in 16 bits."""
    return torch.is_autocast_enabled("cpu")


def is_few_channels(layer: nn.Module) -> bool:
    """Whether a layer of floats can become a :class:`FloatConv2d`: by its very class, whose forward is known."""
    return (
        type(layer) is nn.Conv2d
        and "forward" not in vars(layer)
        and layer.in_channels <= MOST_CHANNELS
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer._parameters.get("weight") is not None
    )
