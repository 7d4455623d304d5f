"""What binary layers do, whether they train or hold bits: a float layer's operation on what a scheme makes low-bit."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..kept_bits import is_written_down
from ..scheme import FLOAT_BITS, QuantizedWeight, Scheme
from .adapters import LayerAdapter


class QuantizedLayer(nn.Module):
    """A convolution or linear layer that computes with a low-bit weight, and an input that its scheme quantizes.

    Subclasses say where the weight comes from: a :class:`BinaryLayer` has a latent one and trains, an
    :class:`quantize.packed.codes.expanded.ExpandedLayer` stores codes. Options have the names that torch's layers give
    them.

    Attributes:
        scheme: how weights and inputs become bits.
        adapter: which weight and padding the float layer's own forward uses.
        threshold: None (the input is compared with 0), or a parameter, one a channel.
        kernel_size: () for a linear layer.
        note: what :func:`quantize.conversion_report` says of the layer.
    """

    scheme: Scheme
    adapter: LayerAdapter
    threshold: nn.Parameter | None
    bias: Tensor | None
    progress: Tensor  # of training, where the scheme is annealed
    note: str = ""

    kernel_size: tuple[int, ...] = ()
    transposed: bool = False
    in_features: int  # of linear layers
    out_features: int
    in_channels: int  # of convolutions, as what follows
    out_channels: int
    groups: int
    stride: tuple[int, ...]
    padding: Any  # integers, or "same" or "valid"
    output_padding: tuple[int, ...]
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    _reversed_padding_repeated_twice: list[int]
    dilation: tuple[int, ...]
    _conv_forward: Callable[..., Tensor]
    _output_padding: Callable[..., list[int]]

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Shapes and arguments are the float layer's; only transposed convolutions take an ``output_size``."""
        args = () if output_size is None else (output_size,)
        x = input if self.threshold is None else input - self.per_channel(self.threshold).to(input.dtype)
        return self.compute(x, self.scheme.output_scale(x, self, *args), *args)

    def compute(self, x: Tensor, output_scale: Tensor | None, *args) -> Tensor:
        """The output for the input less the threshold; ``args``: the further arguments of the layer's call.

        Sums of +-1 are integers, exact in float32 up to 2^24. Scale and bias come after them: the packed layer and
        the ONNX file give the same numbers, and a sum of zero stays zero. Sums of floats round anyway: there the scale
        goes into the weight, and no pass over the output multiplies by it. A graph that is written down shows it.
        """
        floats = output_scale is None and self.scheme.input_bits == FLOAT_BITS
        if floats and not is_written_down() and not self.looks_up(x):
            return self.scaled_product(x, *args)
        y, scale = self.product(x, *args)
        if scale is not None:
            y = y * self.per_channel(scale)
        if output_scale is not None:
            y = y * output_scale
        return y if self.bias is None else y + self.per_channel(self.bias)

    def product(self, x: Tensor, *args) -> tuple[Tensor, Tensor | None]:
        """The operation on the quantized input and the values of the weight, and the scale of the weight."""
        values, scale = self.quantized_weight()
        return self.apply_weight(self.scheme.input(x, self), self.from_filters(values), None, *args), scale

    def scaled_product(self, x: Tensor, *args) -> Tensor:
        """The output for floats, with the scale inside the weight."""
        return self.apply_weight(self.scheme.input(x, self), self.scaled_weight(), self.bias, *args)

    def quantized_weight(self) -> QuantizedWeight:
        """Low-bit values of the weight and their scale, both in filter layout."""
        raise NotImplementedError

    def scaled_weight(self) -> Tensor:
        """The weight that the layer computes with, its scale included, in the float layer's shape."""
        values, scale = self.quantized_weight()
        return self.from_filters(values if scale is None else values * scale)

    def looks_up(self, x: Tensor) -> bool:
        """Whether :meth:`product` adds up ``x`` without the weight in floats."""
        return False

    @property
    def unsettled(self) -> bool:
        """Whether the threshold holds no information yet and is 0."""
        return False

    # How a float layer of this kind works.

    @property
    def channel_dim(self) -> int:
        """The channel dimension of the input, counted from the end."""
        return channel_dim(self)

    @property
    def input_channels(self) -> int:
        return self.in_channels if self.kernel_size else self.in_features

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args) -> Tensor:
        """The float layer's operation, with another weight and bias; ``args`` as in :meth:`compute`."""
        if not self.kernel_size:
            return F.linear(x, weight, bias, *args)
        if self.transposed:
            return self._transposed_convolution(x, weight, bias, *args)
        # _conv_forward knows all padding modes; padding with signs keeps signs.
        return self._conv_forward(self.adapter.pad(self, x), weight, bias, *args)

    def _transposed_convolution(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size=None) -> Tensor:
        dims = len(self.kernel_size)
        output_padding = self._output_padding(
            x, output_size, self.stride, self.padding, self.kernel_size, dims, self.dilation
        )
        operation = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
        return operation(x, weight, bias, self.stride, self.padding, output_padding, self.groups, self.dilation)

    def to_filters(self, weight: Tensor) -> Tensor:
        """``weight`` as filters (out_channels, in_channels / groups, *kernel)."""
        return _exchange_channels(weight, self.groups) if self.transposed else weight

    def from_filters(self, filters: Tensor) -> Tensor:
        """The inverse of :meth:`to_filters`."""
        return _exchange_channels(filters, self.groups) if self.transposed else filters

    def window_mean(self, magnitude: Tensor, *args) -> Tensor:
        """K of XNOR-Net: the mean over a group's channels and the kernel window, output-shaped.

        A linear layer's window is the sample. ``args`` as in :meth:`compute`.
        """
        if not self.kernel_size:
            return magnitude.mean(-1, keepdim=True)
        means = magnitude.unflatten(self.channel_dim, (self.groups, -1)).mean(self.channel_dim)
        box = magnitude.new_ones((self.groups, 1, *self.kernel_size))
        window = self.apply_weight(means, box / box[0].numel(), None, *args)
        return window.repeat_interleave(self.out_channels // self.groups, self.channel_dim)

    def per_channel(self, values: Tensor) -> Tensor:
        """View one value a channel (or one in all) so that it broadcasts over an activation."""
        return values.reshape((-1,) + (1,) * len(self.kernel_size))


def channel_dim(layer: nn.Module) -> int:
    """The channel dimension of a float or binary layer's input, counted from the end."""
    return -1 - len(getattr(layer, "kernel_size", ()))


def _exchange_channels(weight: Tensor, groups: int) -> Tensor:
    """(a, b / groups, *kernel) -> (b, a / groups, *kernel), group by group."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
