"""Modules and checks that several networks share."""

import torch
from torch import Tensor, nn


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class ChannelShuffle(nn.Module):
    """Interleave ``groups`` groups of n channels: channel ``g * n + i`` moves to ``i * groups + g``.

    (N, C, *) -> (N, C, *); C must be a multiple of ``groups``. Zhang et al., *ShuffleNet*, 2018.
    """

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        # Sizes are never read, so that an exported graph keeps its batch dimension free.
        if self.training and _is_channels_last(x):
            # What flatten copies is contiguous as it sees it: seen as NHWC, it stays channels-last.
            rows = x.permute(0, 2, 3, 1)
            return rows.unflatten(3, (self.groups, -1)).transpose(3, 4).flatten(3, 4).permute(0, 3, 1, 2)
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class InputDropout(nn.Module):
    """Dropout of the input that a layer computes with: after the sign, where the layer takes one.

    ``dropout(x, layer)`` gives ``layer(x)`` with the input dropped. ``nn.Dropout`` before a binary layer
    drops nothing: a zero becomes +1. Here a dropped value enters once as +1 and once as -1 and the two
    outputs are averaged. Let ``layer(x) = L q(x) + b``, L linear, q element by element, m the middle of
    q(1) and q(-1), k the mask of what is kept, p the share dropped:

        mean of both outputs          = L (k q(x) + (1 - k) m) + b
        middle, the mean of layer(+-1) = L m + b
        (mean - p middle) / (1 - p)   = L (k (q(x) - m) / (1 - p) + m) + b

    For a float layer and for the sign m = 0: exactly inverted dropout, gradients included. A q that is
    not odd (DoReFa-Net, a large learned threshold) drops to m instead of 0, still with the right mean.
    In training the layer computes twice; in evaluation this is ``layer(x)``.

    Args:
        p: the share that is dropped, at least 0 and below 1.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout is {p!r}; it must be at least 0 and below 1")
        self.p = p

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        if not self.training or self.p == 0:
            return layer(x)
        dropped = torch.rand_like(x) < self.p
        ones = torch.ones_like(x[:1])
        # One call, so that a layer that draws its weights at random draws them once.
        y = layer(torch.cat([x.masked_fill(dropped, 1), x.masked_fill(dropped, -1), ones, -ones]))
        high, low, middle = y.split([len(x), len(x), 2])
        return ((high + low) / 2 - self.p * middle.mean(0, keepdim=True)) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class RPReLU(nn.Module):
    """``y = x - shift_in + shift_out`` where ``x > shift_in``, else ``slope (x - shift_in) + shift_out``.

    (N, C, H, W) -> (N, C, H, W); the three are learned, one a channel, from 0, 0.25 and 0.
    Liu et al., *ReActNet*, 2020, eq. 5.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.prelu = nn.PReLU(channels)
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(x - self.shift_in.view(-1, 1, 1)) + self.shift_out.view(-1, 1, 1)


def check_images(x: Tensor, network: str, size: int, at_least: bool = False) -> None:
    """Raises ValueError unless ``x`` is (N, C, size, size), or with ``at_least`` no smaller than that."""
    sizes = x.shape[-2:]
    if x.dim() != 4 or (min(sizes) < size if at_least else sizes != (size, size)):
        more = " or more" if at_least else ""
        raise ValueError(f"{network} takes images of {size}x{size}{more}, got an input of shape {tuple(x.shape)}")
