"""Any tree of pictures: ``train/<class>/`` and ``val/<class>/`` or ``test/<class>/``."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UnreadablePicture

BILINEAR = Image.Resampling.BILINEAR

UNBOUNDED = ("I", "F")  # modes of PIL
WIDENED = ("PNG", "PPM")  # formats of at most 16 bits, which PIL, or an older one, opens as "I"

# What PIL raises for files that are no pictures, are cut short, or damaged.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, Image.DecompressionBombError)


class Pictures(NamedTuple):
    """One split as files.

    Attributes:
        paths: the picture files.
        labels: their classes, as indices.
    """

    paths: list[str]
    labels: list[int]


def find_pictures(data_dir: Path) -> tuple[list[str], Pictures, Pictures]:
    """(classes, train, test) of a tree; ``val/`` is preferred to ``test/`` where there are both.

    Raises FileNotFoundError for a missing or empty folder, ValueError for classes that differ.
    """
    if not data_dir.is_dir():
        raise FileNotFoundError(f"there is no data directory {str(data_dir)!r}; name one with --data-dir")
    train_dir = data_dir / "train"
    test_dir = next((d for d in (data_dir / "val", data_dir / "test") if d.is_dir()), None)
    if not train_dir.is_dir() or test_dir is None:
        found = ", ".join(sorted(p.name for p in data_dir.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"{str(data_dir)!r} must hold train/<class>/ and val/ or test/<class>/; it has {found}")
    classes, train = _scan(train_dir)
    test_classes, test = _scan(test_dir)
    if classes != test_classes:
        here, there = (sorted(set(a) - set(b)) for a, b in ((classes, test_classes), (test_classes, classes)))
        raise ValueError(
            f"classes differ between {str(train_dir)!r} and {str(test_dir)!r}: "
            f"only in the first: {', '.join(here) or 'none'}; only in the second: {', '.join(there) or 'none'}"
        )
    return classes, train, test


def _scan(split_dir: Path) -> tuple[list[str], Pictures]:
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(split_dir)
    except FileNotFoundError as error:  # says which class folder is empty, or that there is none
        raise FileNotFoundError(f"no pictures to train on in {str(split_dir)!r}: {error}") from error
    paths, labels = zip(*folder.samples, strict=True)
    return folder.classes, Pictures(list(paths), list(labels))


def read_picture(path: str, channels: int) -> Image.Image:
    """A picture as grey (1 channel) or RGB (3 channels).

    Raises UnreadablePicture for a file that is not one, or whose values have no known range.
    """
    try:
        with Image.open(path) as picture:
            picture = to_8_bits(picture)
            if picture.mode not in UNBOUNDED:
                return picture.convert("L" if channels == 1 else "RGB")
    except UNREADABLE as error:
        raise UnreadablePicture(
            f"{path!r} is not a readable picture; remove or replace it, or leave such out with --skip-corrupt"
        ) from error
    raise UnreadablePicture(
        f"{path!r} has 32-bit values, and nothing says which of them is white; save it with 8 or 16 bits, or leave "
        "such out with --skip-corrupt"
    )


def to_8_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits as one of 8, ``v // 256``; others as they are.

    PIL would clip the values at 255, which turns nearly all of them white.
    """
    if not (picture.mode.startswith("I;16") or picture.mode == "I" and picture.format in WIDENED):
        return picture
    return Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))


def to_tensor(picture: Image.Image) -> Tensor:
    """uint8 (C, H, W)."""
    pixels = np.asarray(picture)
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)


def center_fit(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The largest central region of the right shape, resized to ``size``, (height, width)."""
    return ImageOps.fit(picture, size[::-1], BILINEAR)


class PictureFiles(Dataset):
    """Pictures decoded when they are asked for, with ``dataset[index, seed]``; without a seed whole.

    With ``skip`` the path of a picture that cannot be read takes the place of (image, label).
    """

    def __init__(
        self, pictures: Pictures, input_size: tuple[int, int, int], resized_crop: bool = False, skip: bool = False
    ):
        from torchvision.transforms import RandomResizedCrop

        self.pictures = pictures
        self.skip = skip
        self.channels, *size = input_size
        self.size = tuple(size)
        self.crop = RandomResizedCrop(self.size) if resized_crop else None

    def __len__(self) -> int:
        return len(self.pictures.paths)

    def __getitem__(self, key: tuple[int, int | None]) -> tuple[Tensor, int] | str:
        index, seed = key
        try:
            picture = read_picture(self.pictures.paths[index], self.channels)
        except UnreadablePicture:
            if not self.skip:
                raise
            return self.pictures.paths[index]
        if self.crop is None or seed is None:
            return to_tensor(center_fit(picture, self.size)), self.pictures.labels[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return to_tensor(self.crop(picture)), self.pictures.labels[index]
