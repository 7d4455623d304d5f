"""What a run prints."""

import dataclasses
import sys
from collections.abc import Iterable

import quantize

from ..processes.distributed import is_first
from .health import LayerHealth
from .metrics import Metrics


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """An epoch of a run.

    Attributes:
        epoch: epochs done with it.
        lr: learning rate in it.
        float_weights: it belongs to the first of two stages, and ``test`` is not of the 1-bit network.
        train, test: averages over the two sets.
        best_acc1: best test accuracy so far in percent; None before there is one.
        flip_rates: layer -> share of the weights that have changed their sign in it.
        health: layer -> state of its inputs after it.
    """

    epoch: int
    lr: float
    float_weights: bool
    train: Metrics
    test: Metrics
    best_acc1: float | None
    flip_rates: dict[str, float]
    health: dict[str, LayerHealth]


def progress(batches: Iterable, total: int, title: str, unit: str = "batch") -> Iterable:
    """``batches``, or another ``unit``, under a live bar on a terminal; nothing in a log file.

    Nor in a process that is not the first.
    """
    from tqdm import tqdm

    disable = None if is_first() else True
    return tqdm(batches, title, total, leave=False, file=sys.stderr, disable=disable, unit=unit)


def complexity_lines(cost: quantize.Summary) -> list[str]:
    """ptflops' two lines, and what they leave out."""
    return [*cost.ptflops_lines(), *cost.binary_lines()]


def epoch_lines(report: EpochReport, epochs: int) -> list[str]:
    """The ``Train:`` and the ``Test:`` line of one of ``epochs`` epochs."""
    train, test = report.train, report.test
    count = f"[{report.epoch:{len(str(epochs))}}/{epochs}]"
    best = "with float weights (stage 1)" if report.float_weights else f"best {report.best_acc1:.2f}%"
    return [
        f"Train: {count}  loss {train.loss:.4f}  top-1 {train.top1:6.2f}%  lr {report.lr:.3g}  "
        f"time {train.seconds:.1f}s  load_time {train.load_share:.0%}  {train.images_per_second:,.0f} images/s",
        f"Test:  {count}  {result_words(test)}  {best}  time {test.seconds:.1f}s",
    ]


def result_words(test: Metrics) -> str:
    """What a test has given."""
    mirrored = "" if test.top1_mirrored is None else f"  with mirror images {test.top1_mirrored:.2f}%"
    return f"loss {test.loss:.4f}  top-1 {test.top1:6.2f}%{mirrored}"


def skipped_lines(paths: set[str]) -> list[str]:
    """A line on pictures that could not be read; none where there are none."""
    if not paths:
        return []
    shown = ", ".join(sorted(paths)[:5]) + (", ..." if len(paths) > 5 else "")
    what = "picture is" if len(paths) == 1 else "pictures are"
    return [f"Warning: {len(paths):,} unreadable {what} skipped: {shown}"]


def say(*lines: str) -> None:
    """Print lines at once, so that a log file can be followed; the first of several processes does."""
    for line in lines if is_first() else ():
        print(line, flush=True)
