"""How a network is trained when the command line does not say: one table, read top to bottom.

A run takes the recipe of its network, then the changes for its dataset, then the flags that were given.
"""

import dataclasses
from typing import Any

import models

from .data import get_dataset


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Defaults of the flags of the same names; ``milestones`` are shares of the epochs."""

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float = 0.0
    lr_schedule: str = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)


# Reaches 99.30% on MNIST (99.55% in float). The reference takes 60 epochs, x0.1 every 15, for 99.23%.
_LENET5 = Recipe(30, 128, "adam", 0.01, lr_schedule="cosine")
# The reference recipe of XNOR network in network on CIFAR-10.
_NIN = Recipe(320, 128, "adam", 0.01, weight_decay=1e-5, milestones=(0.375, 0.625, 0.75, 0.875))

RECIPES: dict[str, Recipe] = {"lenet5": _LENET5, "nin": _NIN, "nin_gc": _NIN}
OTHER_NETWORKS = Recipe(100, 128, "adam", 0.001, lr_schedule="cosine")

DATASET_CHANGES: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 8, "batch_size": 32, "lr_schedule": "cosine"},  # 1,442 images
}


FLOAT_SCHEMES = ("none", "float")  # --scheme none: the float twin of the same layout

# Schemes without a scale, whose weights get no gradient beyond 1 and could not come back.
CLIPPED_SCHEMES = ("binaryconnect", "bnn")

LARGE_PICTURES = 64  # pixels; above, a random region of a picture is better than a shift


def input_size(arch: str, dataset: str, img_size: int | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of a network's images: the size given, its own, or the dataset's.

    Raises ValueError for an unknown name.
    """
    channels, *size = models.resolve(arch).input_size or (3,)
    if img_size is not None:
        size = [img_size] * 2
    height, width = size or get_dataset(dataset).image_size
    return channels, height, width


def effective_scheme(arch: str, scheme: str | None = None) -> str | None:
    """The scheme given, else the one that the network's name ends in; None for float."""
    if scheme is None:
        return models.resolve(arch).scheme
    return None if scheme in FLOAT_SCHEMES else scheme


def default_flags(arch: str, dataset: str, img_size: int | None = None, scheme: str | None = None) -> dict[str, Any]:
    """Values of the flags for ``arch`` on ``dataset``. Raises ValueError for an unknown name."""
    network, images = models.resolve(arch), get_dataset(dataset)
    recipe = dataclasses.asdict(RECIPES.get(network.arch, OTHER_NETWORKS))
    pictures = images.load is None and max(input_size(arch, dataset, img_size)) > LARGE_PICTURES
    name = (effective_scheme(arch, scheme) or "").partition(":")[0]
    return {
        **recipe,
        "augment": "resized_crop" if pictures else images.augmentation,
        "keep_float": network.keep_float,
        "clip_weights": 1.0 if name in CLIPPED_SCHEMES else 0.0,
        **DATASET_CHANGES.get(dataset, {}),
    }
