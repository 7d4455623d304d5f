"""Pooling in converted models: of bits, between packed layers that hand on bits, and of floats.

Torch pools floats that lie plane by plane one by one: the max pooling of a ResNet took half of the converted network's
time. The library computes the same values in vectors.
"""

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels import PoolGeometry, cpu
from ..packing import Bits
from . import ops
from .ops import BoundCall, BoundModule


class PackedMaxPool2d(BoundModule):
    """Max pooling of the bits of a packed layer: int64 (N, H, W, words) -> (N, H', W', words).

    ``max(x) >= t`` when any x is: the or of the bits. ``max(x) <= t``, of a flipped channel, when all are: the and.

    Args:
        pool: the ``nn.MaxPool2d`` that it replaces.
        flip: bool (channels,).
    """

    flip: Tensor

    def __init__(self, pool: nn.MaxPool2d, flip: Tensor):
        super().__init__()
        self.kernel, self.stride = _pair(pool.kernel_size), _pair(pool.stride)
        self.padding, self.dilation = _pair(pool.padding), _pair(pool.dilation)
        self.ceil_mode = pool.ceil_mode
        self.register_buffer("flip", flip)

    def forward(self, input: Tensor | Bits) -> Tensor | Bits:
        words, bound = input.words if isinstance(input, Bits) else input, self.bound
        if bound is not None and bound.takes(words) and bound.of is self._buffers["flip"]:
            return Bits(bound(words))
        geometry = self.geometry(*words.shape[1:3])
        y = ops.pool(words, len(self.flip), geometry, self.flip)
        if ops.is_traced(words):
            return y
        if self.comes_again(words) and words.numel() and kernels.is_native(words):
            call, _ = cpu.bind_max_pool2d(words, len(self.flip), geometry, self.flip)
            self.bound = BoundCall(call, words, y, self.flip)
        return Bits(y)

    def geometry(self, height: int, width: int) -> PoolGeometry:
        """For an input of ``height`` x ``width``."""
        windows = (self.kernel, self.stride, self.padding, self.dilation)
        output = _output_size((height, width), *windows, self.ceil_mode)
        return PoolGeometry(self.kernel, self.stride, (*self.padding, *self.padding), self.dilation, output)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output of an input of ``height`` x ``width``."""
        return self.geometry(height, width).output

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


class FloatMaxPool2d(nn.MaxPool2d, BoundModule):
    """``nn.MaxPool2d`` of floats that lie plane by plane; of others it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        y = _pooled("xk_max_pool_float", self, input, _pair(self.dilation))
        return super().forward(input) if y is None else y


class FloatAvgPool2d(nn.AvgPool2d, BoundModule):
    """``nn.AvgPool2d`` of floats that lie plane by plane; of others it is torch's."""

    def forward(self, input: Tensor) -> Tensor:
        y = _pooled("xk_average_pool", self, input, (1, 1))
        return super().forward(input) if y is None else y


def float_pool(pool: nn.Module) -> type[nn.Module] | None:
    """The class that computes the same in the library; None where there is none, or torch does it as fast."""
    if type(pool) is nn.MaxPool2d:
        return None if pool.return_indices else FloatMaxPool2d
    if type(pool) is not nn.AvgPool2d or pool.divisor_override is not None:
        return None
    return FloatAvgPool2d if pool.count_include_pad or _pair(pool.padding) == (0, 0) else None


def _pooled(
    function: str, pool: FloatMaxPool2d | FloatAvgPool2d, x: Tensor, dilation: tuple[int, int]
) -> Tensor | None:
    """What the library's function makes of ``x``; None where torch has to do it."""
    bound, windows = pool.bound, (pool.kernel_size, pool.stride, pool.padding, dilation, pool.ceil_mode)
    if bound is not None and bound.of == windows and bound.takes(x):
        return bound(x)
    plain = x.dtype is torch.float32 and x.dim() == 4 and x.is_contiguous() and x.numel() > 0
    if not plain or ops.is_followed(x) or not kernels.is_native(x):
        return None
    kernel, stride, padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    sizes = ((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
    output = _output_size(*sizes, ceil_mode=False)
    if min(output) < 1 or any(2 * pad > k for pad, k in zip(padding, kernel, strict=True)):
        return None  # torch says what is wrong
    if pool.ceil_mode and output != _output_size(*sizes, ceil_mode=True):
        return None  # a window reaches past the padding
    geometry = PoolGeometry(kernel, stride, (*padding, *padding), dilation, output)
    call, y = cpu.bind_pool_floats(function, x, geometry)
    call(x.data_ptr(), y.data_ptr())
    if pool.comes_again(x):
        pool.bound = BoundCall(call, x, y, windows)
    return y


_Pair = tuple[int, int]


def _output_size(size: _Pair, kernel: _Pair, stride: _Pair, padding: _Pair, dilation: _Pair, ceil_mode: bool) -> _Pair:
    """Height and width of the output."""
    height, width = (
        _outputs(size[axis], kernel[axis], stride[axis], padding[axis], dilation[axis], ceil_mode) for axis in (0, 1)
    )
    return height, width


def _outputs(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil_mode: bool) -> int:
    """As torch's: with ``ceil_mode`` a last window that starts in the input or its first padding counts.

    One that starts behind them needs a stride and a padding of more than the window together; asked only then, because
    the size may be a symbol, of which a comparison would fix what it says.
    """
    window = dilation * (kernel - 1) + 1
    span = size + 2 * pad - window
    if not ceil_mode:
        return span // stride + 1
    outputs = (span + stride - 1) // stride + 1
    return outputs - (stride + pad > window and (outputs - 1) * stride >= size + pad)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)
