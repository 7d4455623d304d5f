"""Batches of normalized images on the training device, from memory or from files.

The batches of an epoch depend on (seed, epoch) alone, not on the epochs before, the device or the
number of workers: a resumed run sees what the uninterrupted one would have seen.
"""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augment import Augmentation
from .normalization import Normalization

NO_AUGMENTATION = Augmentation()


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers; different numbers give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class Loader:
    """Iterate over (images, labels): float32 (N, C, H, W) and int64 (N,), on ``device``.

    With ``shuffle`` an epoch is a random order without the last incomplete batch (a batch of one
    breaks batch norm); without, it is the whole set in its own order. Call :meth:`set_epoch` first.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        normalization: Normalization,
        augmentation: Augmentation = NO_AUGMENTATION,
        shuffle: bool = False,
        seed: int = 0,
    ):
        self.count = count
        self.batch_size = min(batch_size, count)
        self.normalization = normalization
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches an epoch."""
        return self.count // self.batch_size if self.shuffle else -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator) if self.shuffle else torch.arange(self.count)
        for images, labels in self.raw_batches(order.split(self.batch_size)[: len(self)]):
            yield self.normalization(self.augmentation(images, generator)), labels

    def raw_batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices: uint8 images (N, C, H, W) and labels (N,), on the device."""
        raise NotImplementedError


class MemoryLoader(Loader):
    """Batches of a set that lies decoded in memory: no worker process, no decoding in the loop."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, normalization: Normalization, **options):
        """``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,), on the training device."""
        super().__init__(len(images), batch_size, normalization, **options)
        self.images, self.labels = images, labels

    def raw_batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            indices = indices.to(self.images.device)
            yield self.images[indices], self.labels[indices]


class StreamLoader(Loader):
    """Batches of a set too large for memory, decoded by worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        normalization: Normalization,
        device: torch.device,
        workers: int,
        **options,
    ):
        """``dataset[index, seed]`` is (uint8 image (C, H, W), label); its randomness comes from ``seed``."""
        super().__init__(len(dataset), batch_size, normalization, **options)
        self.device = device
        self._keys: list[list[tuple[int, int]]] = []  # a batch sampler that changes every epoch
        self._files = DataLoader(
            dataset,
            batch_sampler=self._keys,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )

    def raw_batches(self, batches: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        self._keys[:] = [[(i, derive_seed(self.seed, self.epoch, i)) for i in batch.tolist()] for batch in batches]
        for images, labels in self._files:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
