"""Max pooling of bits: what stands between packed layers that hand on bits."""

from torch import Tensor, nn

from .. import kernels
from ..packing import Bits
from . import ops


class PackedMaxPool2d(nn.Module):
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
        words = input.words if isinstance(input, Bits) else input
        output = self.output_size(*words.shape[1:3])
        geometry = kernels.PoolGeometry(self.kernel, self.stride, (*self.padding, *self.padding), self.dilation, output)
        y = ops.pool(words, len(self.flip), geometry, self.flip)
        return y if ops.is_traced(words) else Bits(y)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output of an input of ``height`` x ``width``."""
        return self._outputs(height, 0), self._outputs(width, 1)

    def _outputs(self, size: int, axis: int) -> int:
        """As torch's: with ``ceil_mode`` a last window that starts in the input or its first padding counts.

        One that starts behind them needs a stride and a padding of more than the window together; asked only then,
        because the size may be a symbol, of which a comparison would fix what it says.
        """
        pad, stride = self.padding[axis], self.stride[axis]
        window = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        span = size + 2 * pad - window
        if not self.ceil_mode:
            return span // stride + 1
        outputs = (span + stride - 1) // stride + 1
        return outputs - (stride + pad > window and (outputs - 1) * stride >= size + pad)

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}"


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, (tuple, list)) else (value, value)
