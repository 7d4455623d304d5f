"""Binary convolutions, and their sums by torch's own float convolution."""

import torch
from torch import Tensor
from torch.nn import functional as F

from quantize.kernels import ConvGeometry


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def square(channels, out_channels, kernel, stride=1, padding=0, dilation=1, groups=1) -> ConvGeometry:
    return ConvGeometry(channels, out_channels, (kernel,) * 2, (stride,) * 2, (padding,) * 4, (dilation,) * 2, groups)


def expected_sums(x: Tensor, filters: Tensor, g: ConvGeometry) -> Tensor:
    """In double precision, of a padded input: zeros beside its signs."""
    top, left, bottom, right = g.padding
    padded = F.pad(signs(x).double(), (left, right, top, bottom))
    return F.conv2d(padded, signs(filters).double(), None, g.stride, 0, g.dilation, g.groups)
