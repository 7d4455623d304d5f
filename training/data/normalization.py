"""How pixel values become network inputs: ``(x / 255 - mean) / std`` a channel."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from quantize.words import did_you_mean


class Normalization(NamedTuple):
    """Mean and standard deviation a channel, for pixel values in 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> float32 of the same shape, on the same device."""
        # (x / 255 - mean) / std as one multiply and one add.
        mean, std = (images.new_tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in self)
        return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))


PRESETS = {
    "none": Normalization((0.0,), (1.0,)),
    "half": Normalization((0.5,), (0.5,)),
    "digits": Normalization((0.3053,), (0.3760,)),
    "mnist": Normalization((0.1307,), (0.3081,)),
    "fashionmnist": Normalization((0.2860,), (0.3530,)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def get_preset(name: str, channels: int) -> Normalization:
    """A named preset for images of ``channels`` channels: grey values repeat, colours average to grey.

    Raises ValueError for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown normalization {name!r}: {did_you_mean(name, PRESETS)}; or give --mean and --std")

    def fit(values: tuple[float, ...]) -> tuple[float, ...]:
        return values if len(values) == channels else (sum(values) / len(values),) * channels

    mean, std = PRESETS[name]
    return Normalization(fit(mean), fit(std))


def given(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> Normalization:
    """The normalization of ``--mean`` and ``--std``: one value, or one a channel.

    Raises ValueError for another count, one without the other, a value that is not finite, or a deviation that is not
    positive.
    """
    if not mean or not std:
        raise ValueError(f"--mean {mean or 'missing'} and --std {std or 'missing'} must be given together")
    for flag, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise ValueError(f"{flag} has {len(values)} values; images of {channels} channels need 1 or {channels}")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{flag} is {' '.join(map(str, values))}; it must be finite")
    if min(std) <= 0:
        raise ValueError(f"--std is {min(std)}; it must be positive")
    repeat = {1: channels, channels: 1}
    return Normalization(tuple(mean) * repeat[len(mean)], tuple(std) * repeat[len(std)])
