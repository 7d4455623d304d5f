"""Figures of a result."""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ..cases import SWEEPS, papers_speedup
from ..known_sides import TITLES
from ..measure import Row
from ..result import Result
from .performance_tables import settings, with_setting

SWEEP_AXES = {"channels": "input channels", "kernel": "filter size"}


def plot(result: Result, path: Path) -> None:
    """A sweep as lines beside the paper's formula, anything else as bars."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    if result.kind in SWEEPS:
        _lines(axes, result.kind, next(iter(result.groups.values())))
    elif result.kind == "kernels":
        _gmacs(axes, result.groups)
    else:
        _ratios(axes, next(iter(result.groups.values())))
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(axes: Axes, kind: str, rows: list[Row]) -> None:
    cases = SWEEPS[kind]
    sizes = {name: getattr(case, "channels" if kind == "channels" else "kernel") for name, case in cases.items()}
    axes.plot(sizes.values(), [papers_speedup(c) for c in cases.values()], "k--", label="64 c N_W / (c N_W + 64)")
    for side in dict.fromkeys(row.side for row in rows if row.ratio):
        points = [(sizes[row.case], row.ratio) for row in rows if row.side == side and row.ratio]
        axes.plot(*zip(*points, strict=True), "o-", label=f"measured, against {TITLES[side]}")
    if kind == "channels":
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes.values()), [str(size) for size in sizes.values()])
    axes.set_xlabel(SWEEP_AXES[kind])
    axes.set_ylabel("speed-up")


def _bars(axes: Axes, groups: dict[str, dict[str, float]]) -> None:
    """Groups of bars side by side: label -> case -> value."""
    cases = list(dict.fromkeys(case for values in groups.values() for case in values))
    width = 0.8 / len(groups)
    for i, (label, values) in enumerate(groups.items()):
        places = [cases.index(case) - 0.4 + (i + 0.5) * width for case in values]
        axes.bar(places, values.values(), width, label=label)
    axes.set_xticks(range(len(cases)), cases, rotation=20, ha="right", fontsize="small")


def _ratios(axes: Axes, rows: list[Row]) -> None:
    rows = with_setting(rows, settings(rows)[0])
    sides = list(dict.fromkeys(row.side for row in rows if row.ratio))
    _bars(axes, {TITLES[s]: {row.case: row.ratio for row in rows if row.side == s and row.ratio} for s in sides[1:]})
    axes.axhline(1, color="k", linewidth=1)
    axes.set_ylabel(f"times as long as {TITLES[sides[0]]}")


def _gmacs(axes: Axes, groups: dict[str, list[Row]]) -> None:
    ours = {kernel: [row for row in rows if row.side == rows[0].side] for kernel, rows in groups.items()}
    bars = {kernel: {row.case: row.gmacs for row in rows} for kernel, rows in ours.items()}
    limits = [row.gmacs for rows in groups.values() for row in rows if row.side == "limit" and row.gmacs]
    _bars(axes, bars)
    if limits:
        axes.axhline(max(limits), color="k", linestyle="--", label="xor + popcount + add limit")
    axes.set_ylabel("GMAC/s")
