"""The sizes of a convolution and of a max pooling: the same for every backend."""

from dataclasses import dataclass

Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvGeometry:
    """A 2-D convolution with zero padding: padded taps contribute nothing.

    ``padding`` is (top, left, bottom, right); the other pairs are (height, width). A linear layer over
    ``n`` rows is a 1x1 convolution of an input of one image, one row and width ``n``.
    """

    channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def filters(self) -> tuple[int, int, int, int]:
        """Shape of the filters: (out, channels a group, kh, kw)."""
        return (self.out_channels, self.channels // self.groups, *self.kernel)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output of an input of ``height`` x ``width``."""
        top, left, bottom, right = self.padding
        padded = (height + top + bottom, width + left + right)
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        height, width = ((p - s) // stride + 1 for p, s, stride in zip(padded, spans, self.stride, strict=True))
        return height, width


@dataclass(frozen=True)
class PoolGeometry:
    """A 2-D max pooling: padded taps take no part, and every window has a tap inside the input.

    ``padding`` is (top, left, bottom, right); the other pairs are (height, width). ``output`` is the output's
    size: what the windows give, rounded down, or up (``ceil_mode``), so that the last may reach past the padding.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    output: tuple[int, int]
