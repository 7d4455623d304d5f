"""How a network is trained when the command line does not say: one table, read top to bottom.

A run takes the recipe of its network, then the changes for its dataset, then the flags that were given.
"""

import dataclasses
from typing import Any

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


# The reference recipe of XNOR LeNet-5 on MNIST: x0.1 every 15 of 60 epochs.
_LENET5 = Recipe(60, 128, "adam", 0.01, milestones=(0.25, 0.5, 0.75))
# That of XNOR network in network on CIFAR-10.
_NIN = Recipe(320, 128, "adam", 0.01, weight_decay=1e-5, milestones=(0.375, 0.625, 0.75, 0.875))

RECIPES: dict[str, Recipe] = {"lenet5": _LENET5, "nin": _NIN, "nin_gc": _NIN}
OTHER_NETWORKS = Recipe(100, 128, "adam", 0.001, lr_schedule="cosine")

DATASET_CHANGES: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 8, "batch_size": 32, "lr_schedule": "cosine"},  # 1,442 images
}


def default_flags(arch: str, dataset: str) -> dict[str, Any]:
    """The recipe of ``arch`` (as the registry names it) on ``dataset``; raises ValueError for an unknown set."""
    recipe = dataclasses.asdict(RECIPES.get(arch, OTHER_NETWORKS))
    return {**recipe, "augment": get_dataset(dataset).augmentation, **DATASET_CHANGES.get(dataset, {})}
