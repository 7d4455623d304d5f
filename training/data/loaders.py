"""Batches of normalized images on the training device, from memory or from files.

The batches of an epoch depend on (seed, epoch) alone, not on the epochs before, the device or the
number of workers: a resumed run sees what the uninterrupted one would have seen.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import UnreadablePicture
from .augment import Augmentation
from .normalization import Normalization

NO_AUGMENTATION = Augmentation()


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers; different numbers give unrelated seeds."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


class Share(NamedTuple):
    """Which part of each training batch, and of the test set, a process takes.

    Attributes:
        rank: of the process, from 0.
        processes: how many there are.
        accumulate: parts of a batch that each process takes one after the other.
    """

    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    @property
    def parts(self) -> int:
        """Parts that a batch of the whole run has."""
        return self.processes * self.accumulate

    def part(self, turn: int, size: int) -> slice:
        """What this process takes at its ``turn``, from 0 to accumulate - 1, of parts of ``size`` images."""
        start = (turn * self.processes + self.rank) * size
        return slice(start, start + size)


ALL = Share()


class Loader:
    """Iterate over (images, labels): float32 (N, C, H, W) and int64 (N,), on ``device``.

    With ``shuffle`` an epoch is a random order without the last incomplete batch (a batch of one
    breaks batch norm); without, it is the whole set in its own order. Call :meth:`set_epoch` first.

    What a run of several processes trains on at once, its whole batch, has ``batch_size`` images for each of
    ``share.parts``: the same images, shifted and mirrored in the same way, however many share them. Without
    ``shuffle`` each process takes a run of images; no image is taken twice or left out.

    Raises ValueError where there are fewer images than parts.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        normalization: Normalization,
        augmentation: Augmentation = NO_AUGMENTATION,
        shuffle: bool = False,
        seed: int = 0,
        share: Share = ALL,
    ):
        if shuffle and count < share.parts:
            raise ValueError(
                f"{count} training images are too few for {share.processes} processes with --accumulate "
                f"{share.accumulate}; start fewer"
            )
        self.count = count
        self.batch_size = min(batch_size, count // share.parts if shuffle else count)
        self.normalization = normalization
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.share = share
        self.skipped: set[str] = set()  # paths of pictures that could not be read
        self.set_epoch(0)

    @property
    def whole_batch(self) -> int:
        """Images that all processes together train on between two updates of the weights."""
        return self.batch_size * self.share.parts

    @property
    def epoch_steps(self) -> int:
        """Updates of the weights in an epoch."""
        return self.count // self.whole_batch

    def set_epoch(self, epoch: int, done: int = 0, random_state: Tensor | None = None) -> None:
        """Go to the start of ``epoch``, or behind its first ``done`` images with the :attr:`random_state` of there."""
        self.epoch = epoch
        self.done = done
        self._start = random_state

    @property
    def random_state(self) -> Tensor:
        """Of what will shift and mirror the images that come next; there is one from the first batch on."""
        return self._generator.get_state()

    def __len__(self) -> int:
        """Batches of this process from here to the end of the epoch."""
        if self.shuffle:
            return (self.count - self.done) // self.whole_batch * self.share.accumulate
        return len(self._test_batches())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
        if not self.shuffle:
            for images, labels in self.raw_batches(self._test_batches()):
                yield self.normalization(images), labels
            return
        order = torch.randperm(self.count, generator=self._generator)
        if self._start is not None:
            self._generator.set_state(self._start)
        for number, (images, labels) in enumerate(self.raw_batches(self._training_batches(order))):
            step, turn = divmod(number, self.share.accumulate)
            if turn == 0:  # for the whole batch at once, so that it does not depend on who takes what
                start = self.done + step * self.whole_batch
                self._draw(order[start : start + self.whole_batch], images.shape[-2:])
            yield self.normalization(self._augmented(images, turn)), labels

    def _test_batches(self) -> Sequence[Tensor]:
        own = torch.arange(self.count).tensor_split(self.share.processes)[self.share.rank]
        return own.split(self.batch_size) if len(own) else ()

    def _training_batches(self, order: Tensor) -> Sequence[Tensor]:
        whole = order[self.done :].split(self.whole_batch)[: len(self) // self.share.accumulate]
        return [
            batch[self.share.part(turn, self.batch_size)] for batch in whole for turn in range(self.share.accumulate)
        ]

    @functools.cached_property
    def _first_turned(self) -> Tensor:
        """Which images are mirrored in the first epoch where they alternate: half of them, by the seed alone."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, -1))  # no epoch has this one
        return torch.randint(2, (self.count,), generator=generator) == 1

    def _draw(self, indices: Tensor, size: Sequence[int]) -> None:
        """Decide where the pixels of a whole batch of images come from."""
        turned = self._first_turned[indices] ^ bool(self.epoch % 2) if self.augmentation.alternate else None
        self._moves = self.augmentation.draw(len(indices), size, self._generator, turned)

    def _augmented(self, images: Tensor, turn: int) -> Tensor:
        if self._moves is None:
            return images
        part = self.share.part(turn, self.batch_size)
        return self.augmentation.move(images, *(places[part] for places in self._moves))

    def sample(self, count: int, augmented: bool = False) -> Iterator[Tensor]:
        """``count`` images of the set, or all where it has fewer, normalized, (N, C, H, W).

        They lie evenly over the set, and so do those of each batch: a folder's pictures are sorted by class. Batches
        are at most as large as in training, and differ by one image at most. Where they are ``augmented``, shifted and
        mirrored as in training, the seed alone says how: each call returns the same, and draws nothing of the epoch's.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, -2))  # no epoch has this one
        chosen = torch.linspace(0, self.count - 1, min(self.count, count), dtype=torch.float64).long()
        parts = -(-len(chosen) // self.batch_size)
        for images, _ in self.raw_batches([chosen[part::parts] for part in range(parts)], cropped=False):
            if augmented:
                turned = torch.arange(len(images)) % 2 == 0
                moves = self.augmentation.draw(len(images), images.shape[-2:], generator, turned)
                images = images if moves is None else self.augmentation.move(images, *moves)
            yield self.normalization(images)

    def raw_batches(self, batches: Sequence[Tensor], cropped: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tensor of indices: uint8 images (N, C, H, W) and labels (N,), on the device.

        Not ``cropped``: whole pictures, where training cuts random regions out of them.
        """
        raise NotImplementedError


class MemoryLoader(Loader):
    """Batches of a set that lies decoded in memory: no worker process, no decoding in the loop."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int, normalization: Normalization, **options):
        """``images`` uint8 (N, C, H, W) and ``labels`` int64 (N,), on the training device."""
        super().__init__(len(images), batch_size, normalization, **options)
        self.images, self.labels = images, labels

    def raw_batches(self, batches: Sequence[Tensor], cropped: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in batches:
            indices = indices.to(self.images.device)
            yield self.images[indices], self.labels[indices]


class StreamLoader(Loader):
    """Batches of a set too large for memory, decoded ahead by worker processes."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        normalization: Normalization,
        device: torch.device,
        workers: int,
        **options,
    ):
        """``dataset[index, seed]`` is (uint8 image (C, H, W), label); its randomness comes from ``seed``, None: none.

        It may be a path instead, of a picture that cannot be read: a test batch is smaller by it, and in a training
        batch, whose size every process counts on, another picture of the batch comes twice.
        """
        super().__init__(len(dataset), batch_size, normalization, **options)
        self.device = device
        self._keys = _Keys()
        self._files = DataLoader(
            dataset,
            batch_sampler=self._keys,
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own: the run's random state must not depend on who decodes
        )

    def raw_batches(self, batches: Sequence[Tensor], cropped: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        self._keys.batches, self._keys.seeds = batches, (self.seed, self.epoch) if cropped else None
        readable = not len(batches)  # a process without test pictures has nothing to miss
        for size, (images, labels, skipped) in zip(map(len, batches), self._files, strict=True):
            self.skipped |= set(skipped)
            if not len(labels):
                if self.shuffle:
                    raise UnreadablePicture(f"no picture of a batch can be read, such as {skipped[0]!r}; replace them")
                continue
            readable = True
            if self.shuffle and skipped:
                again = torch.arange(size) % len(labels)
                images, labels = images[again], labels[again]
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        if not readable:
            raise UnreadablePicture(f"none of the test pictures can be read, such as {skipped[0]!r}; replace them")


def _collate(items: list[tuple[Tensor, int] | str]) -> tuple[Tensor, Tensor, list[str]]:
    """Images and labels of a batch, and the paths of those that cannot be read; in the worker."""
    good, skipped = ([item for item in items if isinstance(item, str) == bad] for bad in (False, True))
    if not good:
        return torch.empty(0), torch.empty(0), skipped
    return *default_collate(good), skipped


class _Keys:
    """What the workers decode next, (index, seed of its crop or None) for each image of a batch; new every epoch."""

    batches: Sequence[Tensor] = ()
    seeds: tuple[int, ...] | None = ()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int | None]]]:
        for batch in self.batches:  # one at a time: a million seeds take seconds
            yield [(i, None if self.seeds is None else derive_seed(*self.seeds, i)) for i in batch.tolist()]
