"""How a network is trained when the command line does not say.

A run takes the recipe of its network, then the changes for its dataset, then the flags that were given. With
``--recipe`` it takes that recipe and the flags. A recipe is a file in ``training/recipes/``: flags of trainer_exp.py
as its command line takes them; ``#`` starts a comment.
"""

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .flags import FLOAT_SCHEMES, did_you_mean

if TYPE_CHECKING:
    from models import ModelSpec

ARCH, DATASET = "nin_gc_xnornet", "cifar10"

RECIPES = {
    "cnn": "hinge-exponential-cnn",
    "cnn_svhn": "hinge-exponential-cnn",
    "lenet5": "lenet5",
    "mlp": "hinge-exponential",
    "nin": "adam-steps",
    "nin_gc": "adam-steps",
}
OTHER_NETWORKS = "adam-cosine"

DATASET_CHANGES: dict[str, dict[str, Any]] = {
    "digits": {"epochs": 3, "batch_size": 16, "lr_schedule": "cosine"},  # 1,442 images
}

MILESTONES = (0.5, 0.75)  # of --lr-schedule step alone, as shares of the epochs


LARGE_PICTURES = 64  # pixels; above, a random region of a picture is better than a shift


# For --help, which shows them without importing models: those that come with it.
NETWORKS = (
    *("alexnet", "cnn", "cnn_svhn", "lenet5", "mlp", "nin", "nin_dropout", "nin_gc", "nin_imagenet"),
    *("resnet18", "resnet18_imagenet", "resnet20", "resnet34", "resnet34_imagenet", "resnet50", "resnet50_imagenet"),
    *("vgg11", "vgg13", "vgg16", "vgg_small"),
)
FOLDER = Path(__file__).parents[1] / "recipes"


def list_schemes() -> list[str]:
    """The names of the schemes that come with quantize, which is not imported."""
    (folder,) = find_spec("quantize").submodule_search_locations
    return sorted(path.stem for path in Path(folder, "schemes").glob("[a-z]*.py"))  # a file each, of the scheme's name


def resolve(arch: str) -> "ModelSpec":
    """What a network's name stands for; any registered scheme may end it. Raises ValueError for an unknown name."""
    import models
    from quantize.scheme import preferred_layouts

    return models.resolve(arch, preferred_layouts())


def input_size(arch: str, dataset: str, img_size: int | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of a network's images: the size given, its own, or the dataset's.

    Raises ValueError for an unknown name.
    """
    from ..data import get_dataset

    channels, *size = resolve(arch).input_size or (3,)
    if img_size is not None:
        size = [img_size] * 2
    height, width = size or get_dataset(dataset).image_size
    return channels, height, width


def effective_scheme(arch: str, scheme: str | None = None) -> str | None:
    """The scheme given, else the one that the network's name ends in; None for float."""
    if scheme is None:
        return resolve(arch).scheme
    return None if scheme in FLOAT_SCHEMES else scheme


def default_recipe(arch: str) -> str:
    """The recipe of a network. Raises ValueError for an unknown name."""
    return RECIPES.get(resolve(arch).arch, OTHER_NETWORKS)


def default_flags(arch: str, dataset: str, img_size: int | None = None, scheme: str | None = None) -> dict[str, Any]:
    """Flags that recipes leave open, for ``arch`` on ``dataset``. Raises ValueError for an unknown name."""
    import quantize

    from ..data import get_dataset

    network, images = resolve(arch), get_dataset(dataset)
    pictures = images.load is None and max(input_size(arch, dataset, img_size)) > LARGE_PICTURES
    binary = effective_scheme(arch, scheme)
    return {
        "augment": "resized_crop" if pictures else images.augmentation,
        "keep_float": network.keep_float,
        "clip_weights": 1.0 if binary is not None and quantize.get_scheme(binary).clips_weights else 0.0,
        "milestones": MILESTONES,
    }


def list_recipes() -> list[str]:
    """The names that ``--recipe`` takes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read_recipe(name: str) -> list[str]:
    """The command-line arguments of a recipe. Raises ValueError for an unknown name, with close ones."""
    names = list_recipes()
    if name not in names:
        raise ValueError(f"unknown recipe {name!r}: {did_you_mean(name, names)}")
    return shlex.split((FOLDER / f"{name}.txt").read_text(encoding="utf-8"), comments=True)
