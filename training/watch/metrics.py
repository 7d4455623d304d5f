"""What one pass over a set gives."""

import dataclasses
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..processes.distributed import total


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Averages over one pass, of all processes.

    Attributes:
        loss: mean over the images.
        top1: percent.
        images: how many.
        seconds: of the pass in this process; ``load_seconds`` of them spent waiting for data.
        top1_mirrored: percent, of the mean of an image's and its mirror image's outputs; None where nobody asked.
    """

    loss: float
    top1: float
    images: int
    seconds: float
    load_seconds: float
    top1_mirrored: float | None = None

    def log_entry(self) -> dict[str, float]:
        """The fields of the log: all but what nobody asked for."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def load_share(self) -> float:
        return self.load_seconds / self.seconds


class Meter:
    """Sums of loss and correct answers, kept on the device, and a clock that starts now.

    ``mirrored``: of mirror images too, by :meth:`add_mirrored`.
    """

    def __init__(self, device: torch.device, mirrored: bool = False):
        self.loss_sum = torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        self.correct = torch.zeros((), dtype=torch.long, device=device)
        self.correct_mirrored = torch.zeros_like(self.correct) if mirrored else None
        self.images = 0
        self.load_seconds = 0.0
        self.start = time.perf_counter()

    def batches(self, loader: Iterable) -> Iterator:
        """The items of ``loader``, with the time that they take added to ``load_seconds``."""
        items = iter(loader)
        while True:
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            self.load_seconds += time.perf_counter() - start
            yield item

    def add(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """One batch: its mean loss (), outputs (N, classes), labels (N,)."""
        self.loss_sum += loss.detach() * len(labels)
        self.correct += (outputs.detach().argmax(1) == labels).sum()
        self.images += len(labels)

    def add_mirrored(self, outputs: Tensor, mirrored: Tensor, labels: Tensor) -> None:
        """Of one batch the outputs (N, classes) for its images and for their mirror images, labels (N,)."""
        self.correct_mirrored += ((outputs + mirrored).argmax(1) == labels).sum()

    def state(self) -> dict[str, float]:
        """The sums of this process so far, for :meth:`include`."""
        seconds = time.perf_counter() - self.start
        sums = {"loss_sum": self.loss_sum.item(), "correct": self.correct.item(), "images": self.images}
        return {**sums, "seconds": seconds, "load_seconds": self.load_seconds}

    def include(self, state: dict[str, float]) -> None:
        """Count what another meter has seen of the same pass."""
        self.loss_sum += state["loss_sum"]
        self.correct += state["correct"]
        self.images += state["images"]
        self.load_seconds += state["load_seconds"]
        self.start -= state["seconds"]

    def result(self) -> Metrics:
        sums = [self.loss_sum, self.correct, self.images, 0 if self.correct_mirrored is None else self.correct_mirrored]
        own = torch.tensor(list(map(float, sums)), dtype=torch.float64)
        loss, correct, images, mirrored = total(own).tolist()  # waits for the device, so before the clock
        seconds = time.perf_counter() - self.start
        top1_mirrored = None if self.correct_mirrored is None else 100 * mirrored / images
        return Metrics(loss / images, 100 * correct / images, int(images), seconds, self.load_seconds, top1_mirrored)
