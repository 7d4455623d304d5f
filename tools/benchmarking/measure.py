"""A case measured: every side built, its numbers verified, all timed in turns."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .side import Built, Side, Unavailable
from .timing import Contestant, Timer, Times


@dataclasses.dataclass(frozen=True)
class Row:
    """One side of a case, as JSON holds it. Times are microseconds a call; ``ratio`` is how many times as long as
    the first side with as many threads; a side that did not run has the reason in ``skipped`` instead.
    """

    case: str
    batch: int
    threads: int
    side: str
    macs: int
    detail: str = ""
    median_us: float | None = None
    min_us: float | None = None
    p95_us: float | None = None
    calls: int = 0
    interrupted: int = 0
    gmacs: float | None = None
    ratio: float | None = None
    skipped: str | None = None


def measure(case: Any, sides: Sequence[Side], batch: int, threads: Iterable[int], timer: Timer) -> list[Row]:
    """All sides on each number of threads, in one interleaved run.

    Raises WrongNumbers where a side's answer is not what it must be.
    """
    problem = case.problem(batch)
    rows, contestants, built = [], [], []
    for side, count in ((side, count) for count in threads for side in sides):
        row = Row(case.name, batch, count, side.name, case.macs(batch))
        try:
            ready = _build(side, problem, count)
        except Unavailable as reason:
            rows.append(dataclasses.replace(row, skipped=str(reason)))
            continue
        rows.append(dataclasses.replace(row, detail=ready.detail))
        built.append(len(rows) - 1)
        contestants.append(Contestant(side.name, count, ready.run))
    times = dict(zip(built, timer.measure(contestants), strict=True))
    first = {row.threads: times[i] for i, row in enumerate(rows) if row.side == sides[0].name and i in times}
    return [_timed(row, times[i], first.get(row.threads)) if i in times else row for i, row in enumerate(rows)]


def _build(side: Side, problem: Any, threads: int) -> Built:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        built = side.build(problem, threads)
        side.verify(problem, built.run())
    finally:
        torch.set_num_threads(before)
    return built


def _timed(row: Row, times: Times, first: Times | None) -> Row:
    return dataclasses.replace(
        row,
        median_us=_microseconds(times.median),
        min_us=_microseconds(times.calls[0]),
        p95_us=_microseconds(times.quantile(0.95)),
        calls=len(times.calls),
        interrupted=times.interrupted,
        gmacs=round(row.macs / times.median / 1e9, 1),
        ratio=round(times.ratio(first), 3) if first else None,
    )


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 2)
