"""What a binary convolution is told besides its tensors: the same for every backend."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Output = Literal["float32", "int32", "bits"]
Layout = Literal["nchw", "nhwc"]


def check_choice(name: str, value: str, valid: Collection[str]) -> None:
    """ValueError where ``value``, which the argument ``name`` has, is not one of ``valid``."""
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")


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
        return tuple((p - s) // stride + 1 for p, s, stride in zip(padded, spans, self.stride, strict=True))


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


class Epilogue(NamedTuple):
    """``relu(sum * scale[c] * input_scale[n, group, pixel] + bias[c])``; each part may be left out.

    ``threshold`` and ``flip``, one a channel, belong to bits: a bit is ``y >= threshold``, or
    ``y <= threshold`` where flipped; without a threshold it is compared with 0.

    ``shuffle`` G moves the output's channel ``a * n + b``, of G groups of n, to ``b * G + a``: a channel shuffle
    (Zhang et al., *ShuffleNet*, 2018) of the result. All else counts channels as the convolution does.
    """

    scale: Tensor | None = None
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    relu: bool = False
    threshold: Tensor | None = None
    flip: Tensor | None = None
    shuffle: int = 1

    @property
    def is_empty(self) -> bool:
        return self.scale is None and self.bias is None and self.input_scale is None and not self.relu
