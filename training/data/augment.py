"""Random shifts and mirrorings of a whole batch, and its size, on the device the batch is on."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from quantize.words import did_you_mean


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Pad with black, crop back at a random place, mirror half of the images.

    Attributes:
        padding: black pixels a side at 32x32; larger and smaller images get the same share.
        flip: mirror left to right with probability 1/2.
        alternate: mirror each image in every second epoch instead, so that two epochs in a row show both sides of all
            (Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024).
        resized_crop: cut a random region of the original picture, of 8% to 100% of its area, and
            resize it. Needs the original files, so such a set is streamed.
    """

    padding: int = 0
    flip: bool = False
    resized_crop: bool = False
    alternate: bool = False

    def draw(
        self, count: int, size: Sequence[int], generator: torch.Generator, turned: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """Where the pixels of ``count`` images of ``size``, (height, width), come from in the padded images.

        Rows (count, height) and columns (count, width); None where every pixel stays. ``generator`` is the CPU's,
        whatever the device. ``turned`` (count,) says which images are mirrored where they alternate.
        """
        height, width = size
        padding = self.border(size)
        offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=generator)
        if self.alternate:
            assert turned is not None
            mirrored = turned[:, None]
        else:
            mirrored = torch.rand(count, 1, generator=generator) < (0.5 if self.flip else 0.0)
        if not padding and not self.flip and not self.alternate:
            return None
        columns = torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
        return offsets[0] + torch.arange(height), offsets[1] + columns

    def border(self, size: Sequence[int]) -> int:
        """Black pixels a side for images of ``size``."""
        return round(self.padding * min(size) / 32)

    def move(self, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Images (N, C, H, W), any dtype, with their pixels from ``rows`` (N, H) and ``columns`` (N, W)."""
        padded = F.pad(images, [self.border(images.shape[-2:])] * 4)
        return _gather(padded, rows.to(images.device), columns.to(images.device))


def scaled(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) of floats as (N, C, size, size), bilinear; as they are where they have that size."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``out[n, c, i, j] = images[n, c, rows[n, i], columns[n, j]]``; rows (N, H), columns (N, W)."""
    batch = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    return images[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]


AUGMENTATIONS = {
    "none": Augmentation(),
    "shift": Augmentation(padding=2),
    "crop_flip": Augmentation(padding=4, flip=True),
    "crop_alternate": Augmentation(padding=4, alternate=True),
    "resized_crop": Augmentation(flip=True, resized_crop=True),
}


def get_augmentation(name: str) -> Augmentation:
    """Raises ValueError for an unknown name."""
    if name not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {name!r}: {did_you_mean(name, AUGMENTATIONS)}")
    return AUGMENTATIONS[name]
