"""Sets known by name: handwritten digits from scikit-learn, and torchvision's small sets."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from quantize.words import did_you_mean


@dataclasses.dataclass(frozen=True)
class ArraySet:
    """One split, decoded: uint8 images (N, C, H, W), int64 labels (N,)."""

    images: Tensor
    labels: Tensor


class UnreadSet:
    """An :class:`ArraySet` that is read when its images or labels are first asked for."""

    def __init__(self, read: Callable[[], ArraySet]):
        self._read = functools.cache(read)

    @property
    def images(self) -> Tensor:
        return self._read().images

    @property
    def labels(self) -> Tensor:
        return self._read().labels


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What a name stands for.

    Attributes:
        load: ``load(data_dir) -> (classes, train, test)``, or None for a folder of images.
        image_size: (height, width) of its images, for networks that take any size.
        normalization: the preset its images are normalized with.
        augmentation: what training images go through.
    """

    load: Callable[[Path], tuple[list[str], ArraySet | UnreadSet, ArraySet]] | None
    image_size: tuple[int, int]
    normalization: str
    augmentation: str


def load_digits(data_dir: Path) -> tuple[list[str], ArraySet, ArraySet]:
    """1,797 handwritten digits of 8x8 pixels and 17 grey levels; they come with scikit-learn.

    Every fifth image of a class is for testing: 1,442 and 355 images.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    number_in_class = torch.zeros_like(labels)
    for digit in range(10):
        number_in_class[labels == digit] = torch.arange(int((labels == digit).sum()))
    test = number_in_class % 5 == 4
    return [str(d) for d in range(10)], ArraySet(images[~test], labels[~test]), ArraySet(images[test], labels[test])


def load_torchvision(name: str, files: str, data_dir: Path) -> tuple[list[str], UnreadSet, ArraySet]:
    """A set of torchvision's, downloaded into ``data_dir`` where its files are absent; training images on demand.

    Args:
        name: torchvision's class.
        files: the files it looks for, as a person would say them.

    Raises FileNotFoundError, at the latest when the images are asked for, where they are absent and cannot be
    downloaded.
    """
    splits = [{"split": s} for s in ("train", "test")] if name == "SVHN" else [{"train": t} for t in (True, False)]
    train, test = (functools.partial(_open, name, files, data_dir, **split) for split in splits)
    tested = test()
    classes = [str(c) for c in getattr(tested, "classes", range(10))]
    return classes, UnreadSet(lambda: _arrays(train())), _arrays(tested)


def _open(name: str, files: str, data_dir: Path, **split):
    from torchvision import datasets

    make = getattr(datasets, name)
    try:
        with contextlib.suppress(RuntimeError):  # "Dataset not found or corrupted"
            return make(data_dir, **split)
        return make(data_dir, download=True, **split)
    except (RuntimeError, OSError, EOFError) as error:
        with contextlib.suppress(OSError):
            _remove_empty_folders(data_dir)
        reason = str(error).strip().splitlines()[-1]
        raise FileNotFoundError(
            f"{name} is not in {str(data_dir)!r} and could not be downloaded ({reason}): put {files} there, "
            "or name the directory that has them with --data-dir"
        ) from error


def _arrays(dataset) -> ArraySet:
    images = torch.as_tensor(dataset.data)
    if images.dim() == 3:
        images = images.unsqueeze(1)  # MNIST: (N, H, W)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2).contiguous()  # CIFAR: (N, H, W, 3)
    labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
    return ArraySet(images, torch.as_tensor(labels).long())


def _remove_empty_folders(root: Path) -> None:
    """Take back the folders that a failed download made."""
    for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()
    root.rmdir()


def _torchvision(name: str, files: str):
    return lambda data_dir: load_torchvision(name, files, data_dir)


_IDX = "{}/raw/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte"

DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(load_digits, (8, 8), "digits", "shift"),
    "mnist": DatasetSpec(_torchvision("MNIST", _IDX.format("MNIST")), (28, 28), "mnist", "shift"),
    "fashionmnist": DatasetSpec(
        _torchvision("FashionMNIST", _IDX.format("FashionMNIST")), (28, 28), "fashionmnist", "shift"
    ),
    "cifar10": DatasetSpec(
        _torchvision("CIFAR10", "cifar-10-python.tar.gz unpacked (cifar-10-batches-py/)"),
        (32, 32),
        "cifar10",
        "crop_flip",
    ),
    "cifar100": DatasetSpec(
        _torchvision("CIFAR100", "cifar-100-python.tar.gz unpacked (cifar-100-python/)"),
        (32, 32),
        "cifar100",
        "crop_flip",
    ),
    "svhn": DatasetSpec(_torchvision("SVHN", "train_32x32.mat and test_32x32.mat"), (32, 32), "svhn", "shift"),
    "imagefolder": DatasetSpec(None, (224, 224), "imagenet", "crop_flip"),
}


def get_dataset(name: str) -> DatasetSpec:
    """Raises ValueError for an unknown name, with close ones."""
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: {did_you_mean(name, DATASETS)}")
    return DATASETS[name]
