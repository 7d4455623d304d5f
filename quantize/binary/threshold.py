"""Where the sign of a channel says almost nothing, and where its threshold starts instead of at 0."""

import torch
from torch import Tensor

# The sign of a Gaussian explains phi(z)^2 / (m (1 - m)) of its variance, m the share of the values on the
# smaller side of zero and z = Phi^-1(m): 2/pi where half of them are negative (m = 1/2), half as much at
# m = 0.088. With fewer on that side (ReLU: none; the tail of Hardswish, max pooling: few) a threshold at
# the mean says more than twice as much.
CONSTANT_SIGN_SHARE = 0.088

# A layer gets a threshold where this share of its channels is constant. All are behind a ReLU; a few are anywhere:
# behind batch norm, 5 of the 800 features of a LeNet on digits, from the corners of the picture.
CONSTANT_CHANNELS = 0.1

# A share is taken as if so many values more had been seen, with the signs of all channels. A channel of
# fair signs is then taken for constant only where 19 values or more all have one sign: 2^-18.
_PRIOR_COUNT = 4


def channel_sums(x: Tensor, channel_dim: int) -> Tensor:
    """(number of values, number of negative ones, sum) a channel of ``x``, shape (3, channels).

    Sums of parts of a batch add up to the sums of the whole.
    """
    x = x.detach().unsqueeze(0)  # a single feature vector has no dimension to sum over
    others = [d for d in range(x.dim()) if d != x.dim() + channel_dim]
    total = x.sum(others, dtype=torch.float32)
    negative = (x < 0).sum(others).float()
    return torch.stack([torch.full_like(total, x.numel() / max(len(total), 1)), negative, total])


def constant_sign(sums: Tensor) -> Tensor:
    """Which channels have the same sign everywhere, but for a share of ``CONSTANT_SIGN_SHARE``; shape (channels,).

    Args:
        sums: what :func:`channel_sums` made of the layer's input.
    """
    count, negative, _ = sums
    share = (negative + _PRIOR_COUNT * negative.sum() / count.sum()) / (count + _PRIOR_COUNT)
    return torch.minimum(share, 1 - share) <= CONSTANT_SIGN_SHARE


def needs_threshold(sums: Tensor) -> Tensor:
    """Whether enough channels have a constant sign, a boolean of shape ()."""
    return constant_sign(sums).float().mean() >= CONSTANT_CHANNELS


def threshold_start(sums: Tensor) -> Tensor:
    """First values of a learned threshold, shape (channels,): the mean of a channel of constant sign, else 0.

    All are 0 for a layer that needs no threshold.
    """
    count, _, total = sums
    return torch.where(constant_sign(sums) & needs_threshold(sums), total / count, 0)
