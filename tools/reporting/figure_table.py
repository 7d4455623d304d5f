"""The columns of the report, and a run's cells in them."""

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tools.reporting.run_figures import Run


class Column(NamedTuple):
    """A figure of each run.

    Attributes:
        title: its heading.
        meaning: what it is.
        text: of a value.
        of_machine: depends on what computed, so that only runs on the same machine are compared.
    """

    title: str
    meaning: str
    text: Callable[[float], str]
    of_machine: bool = False


def short(value: float, unit: str = "") -> str:
    """1234567 and "B" -> "1.23 MB"."""
    for size, prefix, decimals in ((1e9, "G", 2), (1e6, "M", 2), (1e3, "k", 1)):
        if value >= size:
            return f"{value / size:.{decimals}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".strip()


def size(value: float) -> str:
    return short(value, "B")


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.1 else f"{1e3 * seconds:.0f} ms"


COLUMNS = {
    "top1": Column("top-1", "of the best epoch on the test set", "{:.2f}%".format),
    "file_bytes": Column("size on disk", "the ONNX file, in which a binary weight takes 1 bit", size),
    "packed_bytes": Column("packed", "parameters and buffers with binary weights at 1 bit, computed", size),
    "onnx_seconds": Column(
        "inference",
        "one image through the ONNX file, whose binary layers compute on bits, in onnxruntime with one thread on the "
        "machine of the report, median",
        milliseconds,
    ),
    "macs": Column("MACs", "of an image, those of binary layers left out", short),
    "binary_macs": Column("binary MACs", "of an image, with 1-bit weights", short),
    "training_seconds": Column("training time", "the training passes of all epochs", duration, True),
    "peak_memory": Column(
        "training memory",
        "the peak of the process, libraries and data included; on a GPU that of its tensors",
        size,
        True,
    ),
    "test_seconds": Column(
        "training tests",
        "an image of the test pass after each epoch, loading and whatever else ran on the machine included, median of "
        "the epochs; training computes binary layers in float, so that this is no time of inference",
        milliseconds,
        True,
    ),
}


def columns_of(runs: Iterable[Run]) -> dict[str, Column]:
    """The columns that say something of these runs: a figure, or why there is none."""
    known = {key for run in runs for key in (*run.figures, *run.missing)}
    return {key: column for key, column in COLUMNS.items() if key in known}


def compared(key: str, run: Run, twin: Run | None) -> str:
    """A figure beside the float run's: "-0.25 points", "0.047x", or "" where they cannot be compared."""
    column = COLUMNS[key]
    if twin is None or key not in run.figures or not twin.figures.get(key):
        return ""
    if column.of_machine and (len(run.machines) > 1 or run.machines != twin.machines):
        return ""
    if key == "training_seconds" and run.epochs != twin.epochs:
        return ""
    if key == "top1":
        return f"{run.figures[key] - twin.figures[key]:+.2f} points"
    ratio = run.figures[key] / twin.figures[key]
    return f"{ratio:.2g}x" if ratio < 1 else f"{ratio:.1f}x"


def cell(key: str, run: Run) -> str:
    return COLUMNS[key].text(run.figures[key]) if key in run.figures else "-"


def epochs(run: Run) -> str:
    return str(run.wanted) if run.epochs == run.wanted else f"{run.epochs} of {run.wanted}"


def notes(runs: Sequence[Run]) -> list[str]:
    """Why cells are empty, a sentence each."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for key, why in run.missing.items():
            reasons.setdefault((COLUMNS[key].title, why), []).append(run.name)
    return [
        f"No {title} of {'any run' if len(names) == len(runs) else ', '.join(names)}: {why}."
        for (title, why), names in reasons.items()
    ]
