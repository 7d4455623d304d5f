"""Augmentation of whole training batches, after normalization: mixup and random erasing."""

import contextlib
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from ..config import TrainConfig
from ..processes.distributed import rank
from .loaders import derive_seed


class Mixing:
    """Mixup and random erasing of a batch.

    What it does to a batch depends on (seed, epoch, step) and the process alone, and it leaves the random state of
    the run as it was.

    Args:
        config: mixup, alpha of the Beta distribution of the shares (Zhang et al., *mixup*, 2018); random_erasing,
            probability that a rectangle of an image, of 2% to a third of its area, becomes the mean colour (Zhong et
            al., *Random Erasing*, 2020); 0: none of it.
        device: of the images.
    """

    def __init__(self, config: TrainConfig, classes: int, device: torch.device):
        self.transforms = []
        self.seed = config.seed
        if config.random_erasing:
            from timm.data.random_erasing import RandomErasing

            erase = RandomErasing(config.random_erasing, device=device)
            self.transforms.append(lambda images, labels: (erase(images), labels))
        if config.mixup:
            from torchvision.transforms.v2 import MixUp

            self.transforms.append(MixUp(alpha=config.mixup, num_classes=classes))

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W), which may be changed in place, and labels (N,) -> images, and labels (N,) or
        probabilities (N, classes) where they are mixed."""
        if self.transforms:
            process = (rank(),) if rank() else ()  # the first one's batches are mixed as if it were alone
            with _seeded(derive_seed(self.seed, epoch, step, *process)):
                for transform in self.transforms:
                    images, labels = transform(images, labels)
        return images, labels


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of Python and of torch's CPU generator from ``seed``; afterwards as they were."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(state)
