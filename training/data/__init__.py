"""Images for training and testing: sets by name, decoded once, augmented in batches on the device."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import TrainConfig
from .augment import AUGMENTATIONS, Augmentation, get_augmentation
from .datasets import DATASETS, ArraySet, get_dataset
from .loaders import ALL, Loader, MemoryLoader, Share, StreamLoader, derive_seed
from .normalization import PRESETS, Normalization, get_preset, given

if TYPE_CHECKING:
    from .imagefolder import Pictures

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "PRESETS",
    "Augmentation",
    "Data",
    "Loader",
    "Normalization",
    "Share",
    "choose_normalization",
    "derive_seed",
    "get_augmentation",
    "get_dataset",
    "get_preset",
    "load_data",
]

# A folder of pictures whose decoded size is above this is streamed from its files.
MEMORY_LIMIT = 2 * 2**30

# Weights of red, green and blue in grey (ITU-R 601), as picture libraries use them.
LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything a run needs to know of its images.

    Attributes:
        classes: names, in the order of the labels.
        train, test: loaders of normalized batches; train None where only the test set was asked for.
        normalization: what turned pixels into inputs.
        input_size: (channels, height, width) of a batch's images.
    """

    classes: list[str]
    train: Loader | None
    test: Loader
    normalization: Normalization
    input_size: tuple[int, int, int]

    @property
    def skipped(self) -> set[str]:
        """The paths of the pictures that could not be read and were left out so far."""
        return self.test.skipped | (self.train.skipped if self.train else set())


def choose_normalization(config: TrainConfig, channels: int) -> Normalization:
    """``--mean`` and ``--std``, else the preset named or the set's own."""
    if config.mean or config.std:
        if config.normalize:
            raise ValueError(f"--normalize {config.normalize!r} and --mean/--std exclude each other; give one")
        return given(config.mean, config.std, channels)
    return get_preset(config.normalize or get_dataset(config.dataset).normalization, channels)


def load_data(
    config: TrainConfig,
    input_size: tuple[int, int, int],
    device: torch.device,
    test_only: bool = False,
    share: Share = ALL,
) -> Data:
    """The set that ``config`` names, as batches of ``input_size`` on ``device``; ``test_only``: without training's.

    ``share`` says what of it is for this process.

    Raises ValueError or FileNotFoundError, in one sentence, for a set that cannot be had.
    """
    normalization = choose_normalization(config, input_size[0])
    augmentation = get_augmentation(config.augment)
    classes, splits, skipped = _read(config, input_size, augmentation.resized_crop, test_only)

    def loader(split: "ArraySet | Pictures", augmentation: Augmentation, shuffle: bool) -> Loader:
        options = {"augmentation": augmentation, "shuffle": shuffle, "seed": config.seed, "share": share}
        if isinstance(split, ArraySet):
            images, labels = split.images.to(device), split.labels.to(device)
            return MemoryLoader(images, labels, config.batch_size, normalization, **options)
        from .imagefolder import PictureFiles  # here: arrays of images need no Pillow

        files = PictureFiles(split, input_size, augmentation.resized_crop, config.skip_corrupt)
        return StreamLoader(files, config.batch_size, normalization, device, config.workers, **options)

    train = None if test_only else loader(splits[0], augmentation, True)
    test = loader(splits[-1], Augmentation(), False)
    test.skipped |= skipped
    return Data(classes, train, test, normalization, input_size)


def _read(config: TrainConfig, input_size: tuple[int, int, int], resized_crop: bool, test_only: bool):
    """(classes, [train, test] or [test], skipped pictures); pictures that fit into memory are decoded."""
    spec, data_dir = get_dataset(config.dataset), Path(config.data_dir).expanduser()
    if spec.load is not None and resized_crop:
        raise ValueError(f"--augment resized_crop needs picture files (--dataset imagefolder), not {config.dataset!r}")
    if spec.load is not None:
        classes, *splits = spec.load(data_dir)
        splits = splits[1:] if test_only else splits
        return classes, [ArraySet(adapt(split.images, input_size), split.labels) for split in splits], set()
    from .decoded import decode
    from .imagefolder import find_pictures

    classes, *splits = find_pictures(data_dir)
    splits = splits[1:] if test_only else splits
    pictures = sum(len(split.paths) for split in splits)
    if pictures * math.prod(input_size) <= MEMORY_LIMIT and not resized_crop:
        decoded = [decode(split, input_size, config.skip_corrupt) for split in splits]
        return classes, [arrays for arrays, _ in decoded], {path for _, skipped in decoded for path in skipped}
    return classes, splits, set()


def adapt(images: Tensor, input_size: tuple[int, int, int]) -> Tensor:
    """uint8 (N, C, H, W) -> the network's own channels, height and width, grey or RGB, bilinear."""
    channels, *size = input_size
    parts = [_adapt(part.float(), channels, size) for part in images.split(4096)]  # float32 is 4 times as large
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


def _adapt(images: Tensor, channels: int, size: list[int]) -> Tensor:
    if images.shape[1] == 3 and channels == 1:
        images = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if images.shape[-2:] != tuple(size):
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    return images.expand(-1, channels, -1, -1)
