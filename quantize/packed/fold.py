"""What stands between two binary layers as parts of them: thresholds, scales, the order of channels."""

import inspect
import math
import pickle
from collections.abc import Callable, Sequence
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..calling import copy_model

# Element by element, and never decreasing: the sign of what they return is a threshold on what they get.
_INCREASING = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
# A window of one channel, where the input has a batch (by its dimensions): the channels may change places before or
# after it. Without one they take the batch for the channels, and the channels for a place.
_POOLING = {
    3: (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d),
    4: (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
}

_LARGEST = int(torch.tensor(torch.finfo(torch.float32).max).view(torch.int32))
_PROBE = 4  # pixels: the vectorized path of an operation


def is_kind(module: nn.Module, kinds: type[nn.Module] | Sequence[type[nn.Module]]) -> bool:
    """Whether ``module`` is of one of ``kinds``, has its forward pass, not one of its own, and does not train.

    A class may keep its batch norms or dropouts in training whatever the model's mode.
    """
    if module.training or "forward" in vars(module):
        return False
    kinds = (kinds,) if isinstance(kinds, type) else kinds
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def is_batch_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a batch norm with running statistics: a scale and an offset a channel."""
    return is_kind(module, _BatchNorm) and module.running_mean is not None


def is_monotone(module: nn.Module) -> bool:
    """Whether it works channel by channel, element by element, and never changes its direction inside a channel."""
    return is_batch_norm(module) or is_kind(module, _INCREASING)


def is_relu(module: nn.Module) -> bool:
    return is_kind(module, nn.ReLU)


def is_max_pool(module: nn.Module) -> bool:
    """Whether it is a 2-D max pooling that bits can do."""
    return is_kind(module, nn.MaxPool2d) and not module.return_indices


def is_pooling(module: nn.Module, dims: Sequence[int] = tuple(_POOLING)) -> bool:
    """Whether it is a pooling of inputs of so many dimensions, each channel for itself."""
    kinds = [kind for count in dims for kind in _POOLING.get(count, ())]
    return is_kind(module, kinds) and not getattr(module, "return_indices", False)


def keeps_channels(module: nn.Module, dims: int) -> bool:
    """Whether it does the same to each channel of an input of ``dims`` dimensions.

    Then a channel shuffle may come before it as well as after it.
    """
    return is_pooling(module, [dims]) or is_kind(module, _INCREASING)


def may_shuffle(module: nn.Module) -> bool:
    """Whether it might be a channel shuffle: a module with nothing in it that is not of a kind known otherwise."""
    if any(True for _ in module.children()) or module.state_dict() or module.training:
        return False
    if isinstance(module, torch.jit.ScriptModule):  # its forward tells nothing of its parameters
        return False
    own = not type(module).__module__.startswith("torch.nn.modules.")
    return isinstance(module, nn.ChannelShuffle) or (own and len(inspect.signature(module.forward).parameters) == 1)


def shuffle_values(values: Tensor, groups: int) -> Tensor:
    """Values (C,), one a channel, in the order that a shuffle of ``groups`` groups gives the channels."""
    return values.view(groups, -1).t().flatten()


def unshuffle_values(values: Tensor, groups: int) -> Tensor:
    """The inverse of :func:`shuffle_values`."""
    return values.view(-1, groups).t().flatten()


def shuffle_groups(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """G where ``module`` interleaves G groups of channels of an input of ``shape``, found by trying; else None.

    Channel ``g * n + i`` of C = G n moves to ``i * G + g``. It is tried on several samples, which a shuffle leaves in
    their order, and on values of all magnitudes, which it does not limit; what it writes down would be lost with it.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((max(2, shape[0]), *shape[1:]), generator=generator)
    x *= 10 ** (20 * torch.rand(x.shape, generator=generator) - 10)
    try:
        module = copy_model(module)
        before = pickle.dumps(vars(module))
        y = module(x.clone())
        if pickle.dumps(vars(module)) != before:
            return None
    except Exception:  # whatever a module of the user's raises: it is not a shuffle
        return None
    channels = shape[1]
    if not isinstance(y, Tensor) or y.shape != x.shape:
        return None
    for groups in (g for g in range(2, channels) if channels % g == 0):
        if torch.equal(y, x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)):
            return groups
    return None


def threshold_before(
    modules: Sequence[nn.Module], shape: tuple[int, ...], threshold: Tensor, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """(threshold, flip) a channel of the input of ``modules`` that stand for these of their output.

    A value y has the bit ``y >= threshold``, or ``y <= threshold`` where flipped; a batch norm with a negative
    gamma flips it. Found by bisection over all floats, through the modules themselves, so that none
    of their roundings is left out. A bit that is always 1 or 0 has the threshold minus or plus infinity.

    Args:
        modules: each with :func:`is_monotone`, in evaluation mode.
        shape: of their input, (N, C, ...).
        threshold, flip: (C,).
    """
    channels = len(threshold)
    probe = (1, channels, *[_PROBE] * (len(shape) - 2))

    def bits(ordinals: Tensor) -> Tensor:
        x = _float_at(ordinals).view(1, -1, *[1] * (len(shape) - 2)).expand(probe).contiguous()
        for module in modules:
            x = module(x)
        y = x.reshape(channels, -1)[:, 0]
        return torch.where(flip, y <= threshold, y >= threshold)

    largest = torch.full((channels,), _LARGEST)
    before, after, at_lowest, at_highest = bisect(bits, -largest, largest)
    flipped = at_lowest & ~at_highest
    found = torch.where(flipped, _float_at(before), _float_at(after))
    constant = torch.where(at_lowest, -math.inf, math.inf).to(found.dtype)
    return torch.where(at_lowest == at_highest, constant, found), flipped


def bisect(bits: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where ``bits``, which changes at most once between the integers ``low`` and ``high``, does so; all (C,).

    Returns (the last integer before the change, the first after it, the bits at ``low``, the bits at ``high``).
    """
    at_low, at_high = bits(low), bits(high)
    flipped = at_low & ~at_high
    while bool((high - low > 1).any()):
        middle = (low + high).div(2, rounding_mode="floor")
        above = bits(middle) != flipped  # where the search goes on below
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low, high, at_low, at_high


def _float_at(ordinals: Tensor) -> Tensor:
    """The floats at these places in the order of all float32: 0 is 0.0, 1 the smallest above it."""
    bits = torch.where(ordinals >= 0, ordinals, -ordinals | 1 << 31)
    return bits.where(bits < 1 << 31, bits - (1 << 32)).to(torch.int32).view(torch.float32)


def affine_of(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(a, b) a channel, in float64: ``bn(x) = a x + b``."""
    mean, variance = cast(Tensor, bn.running_mean), cast(Tensor, bn.running_var)
    a = 1 / (variance.double() + bn.eps).sqrt()
    if bn.weight is not None:
        a = a * bn.weight.double()
    b = -mean.double() * a
    return a, b if bn.bias is None else b + bn.bias.double()
