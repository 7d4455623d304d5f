"""Rows as tables: a line a case, the sides beside one another."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..measure import Row

NOT_HERE = "-"


def geometric_mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def pivot(rows: Sequence[Row], titles: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of rows with one batch and number of threads: times in microseconds, GMAC/s of the first side,
    how many times as long the others take, and the geometric means of that.
    """
    sides = list(dict.fromkeys(row.side for row in rows))
    header = ["case", f"{titles[sides[0]]} us", "GMAC/s"]
    header += [name for side in sides[1:] for name in (f"{titles[side]} us", "ratio")]
    lines = []
    for case, group in itertools.groupby(rows, key=lambda row: row.case):
        first, *others = group
        lines.append([case, _time(first), _figure(first.gmacs, "{:,.0f}")])
        lines[-1] += [cell for row in others for cell in (_time(row), _figure(row.ratio, "{:.2f}"))]
    means = [[row.ratio for row in rows if row.side == side and row.ratio] for side in sides[1:]]
    if len(lines) > 1 and any(means):
        cells = [cell for ratios in means for cell in ("", f"{geometric_mean(ratios):.2f}" if ratios else NOT_HERE)]
        lines.append(["geometric mean", "", "", *cells])
    return header, lines


def _time(row: Row) -> str:
    return _figure(row.median_us, "{:,.1f}" if (row.median_us or 0) < 1000 else "{:,.0f}")


def _figure(value: float | None, form: str) -> str:
    return NOT_HERE if value is None else form.format(value)


def settings(rows: Iterable[Row]) -> list[tuple[int, int]]:
    """The (batch, threads) there are, in order."""
    return list(dict.fromkeys((row.batch, row.threads) for row in rows))


def setting_title(setting: tuple[int, int]) -> str:
    batch, threads = setting
    return f"batch {batch}, {threads} thread{'' if threads == 1 else 's'}"


def with_setting(rows: Iterable[Row], setting: tuple[int, int]) -> list[Row]:
    return [row for row in rows if (row.batch, row.threads) == setting]


def scaling(rows: Sequence[Row], batch: int) -> tuple[list[str], list[list[str]]]:
    """How many times as fast each side is on the most threads as on one, for one batch size."""
    rows = [row for row in rows if row.batch == batch and row.median_us]
    most = max((row.threads for row in rows), default=1)
    times = {(row.case, row.side, row.threads): row.median_us for row in rows}
    sides = list(dict.fromkeys(row.side for row in rows))
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        pairs = [(times.get((case, side, 1)), times.get((case, side, most))) for side in sides]
        lines.append([case, *(f"{one / many:.2f}" if one and many else NOT_HERE for one, many in pairs)])
    return ["case", *sides], lines if most > 1 else []


def memory(measured: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Kilobytes that networks take, see resident_memory.py."""
    kinds = ("float", "packed")
    header = ["case", "batch", *(f"{what}, {kind} kB" for what in ("stored", "peak") for kind in kinds)]
    lines = []
    for m in measured:
        sizes = [m[kind]["stored"] for kind in kinds] + [m[kind]["model"] + m[kind]["forward"] for kind in kinds]
        lines.append([m["case"], str(m["batch"]), *(f"{size / 1000:,.0f}" for size in sizes)])
    return header, lines


def training_memory(measured: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Megabytes at the peak of a training step, see training_steps.py."""
    lines = []
    for m in measured:
        floating, binary = m["float_step"] / 1e6, m["binary_step"] / 1e6
        lines.append([m["case"], str(m["batch"]), f"{floating:,.0f}", f"{binary:,.0f}", f"{binary / floating:.2f}"])
    return ["case", "batch", "float step MB", "binary step MB", "ratio"], lines


def skipped(rows: Iterable[Row]) -> list[str]:
    """What did not run, and why; each reason once."""
    return list(dict.fromkeys(f"{row.side}: {row.skipped}" for row in rows if row.skipped))


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]], texts: Collection[str] | None = None) -> str:
    """GitHub's kind of table; the columns of ``texts``, or the first alone, are text, the others figures."""
    align = ["---" if name in (header[:1] if texts is None else texts) else "--:" for name in header]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, align, *lines)) + "\n"
