"""The answers of two classifiers to the same images: which of them differ."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quantize.words import format_table

COLUMNS, ROWS = 6, 4  # of a contact sheet
# Two programs in float32 differ by a few units of 2^-24 an operation, over a whole network by less than this, as a
# share of the largest output. One sign that moves changes sums by 2 and the outputs by about 1%.
ROUNDING = 1e-4
MOVED_SIGN = (
    "Of one network in two forms, an image that differs by more than rounding has a moved sign: a value of a float "
    "layer lay so near a threshold that it was rounded to one side of it here and to the other side there. One image "
    "in a hundred is usual."
)


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One image that A and B put into different classes.

    Attributes:
        index: of the image in the test set.
        label: its class.
        predictions: the class that each of the two gives, with its softmax probability in ``scores``.
        difference: the largest between their outputs for this image.
    """

    index: int
    label: str
    predictions: tuple[str, str]
    scores: tuple[float, float]
    difference: float

    def cells(self) -> list[str]:
        """Prediction and score of A, then of B."""
        both = zip(self.predictions, self.scores, strict=True)
        return [cell for prediction, score in both for cell in (prediction, f"{score:.3f}")]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two classifiers, A and B, on a test set. ``print(comparison)`` shows a table.

    Attributes:
        images: how many.
        difference: the largest between their outputs, over all images; ``largest`` is A's largest output.
        moved: how many images differ by more than rounding, ``ROUNDING`` times ``largest``.
        disagreements: in the order of the set.
    """

    images: int
    difference: float
    largest: float
    moved: int
    disagreements: list[Disagreement]

    def __str__(self) -> str:
        total = (
            f"{len(self.disagreements):,} of {self.images:,} predictions differ; the largest difference between "
            f"outputs is {self.difference:.2g}, beside a largest output of {self.largest:.2g}; "
            f"{self.moved:,} image{' differs' if self.moved == 1 else 's differ'} by more than rounding, "
            f"{ROUNDING:g} of that"
        )
        parts = [total]
        if self.disagreements:
            header = ("image", "label", "A", "score A", "B", "score B", "largest difference")
            rows = [(d.index, d.label, *d.cells(), f"{d.difference:.2g}") for d in self.disagreements]
            parts.append(format_table(header, rows, ("image", "score A", "score B", "largest difference")))
        return "\n\n".join(parts + [MOVED_SIGN] * (0 < self.moved < self.images / 2))


def compare(a: Tensor, b: Tensor, labels: Tensor, classes: Sequence[str]) -> Comparison:
    """Compare outputs (N, classes) of A and B for the same images; ``labels`` (N,)."""
    both = torch.stack([a, b]).double()
    predictions, scores = both.argmax(2), both.softmax(2).amax(2)
    apart = (both[0] - both[1]).abs().amax(1)
    found = [
        Disagreement(
            i,
            classes[labels[i]],
            tuple(classes[p] for p in predictions[:, i].tolist()),
            tuple(scores[:, i].tolist()),
            float(apart[i]),
        )
        for i in (predictions[0] != predictions[1]).nonzero().flatten().tolist()
    ]
    largest = float(a.abs().max())
    return Comparison(len(a), float(apart.max()), largest, int((apart > ROUNDING * largest).sum()), found)


def contact_sheet(images: Tensor, shown: Sequence[Disagreement], path: Path) -> None:
    """A PNG of ``images``, uint8 (N, C, H, W), each under what A and B say; at most ``COLUMNS * ROWS`` of them."""
    from matplotlib.figure import Figure

    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(2 * COLUMNS, 2.6 * rows), layout="constrained")
    for i, (image, d) in enumerate(zip(images, shown, strict=True)):
        axes = figure.add_subplot(rows, COLUMNS, i + 1)
        axes.imshow(image.permute(1, 2, 0).squeeze(2).numpy(), cmap="gray", vmin=0, vmax=255)
        (a, b), (score_a, score_b) = d.predictions, d.scores
        axes.set_title(f"{d.index}: {d.label}\nA {a} {score_a:.2f}\nB {b} {score_b:.2f}", fontsize="small")
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
