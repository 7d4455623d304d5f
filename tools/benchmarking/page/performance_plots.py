"""Pictures of a result: speed-ups, where higher is better, and GMAC/s."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ..cases import SWEEPS, papers_speedup
from ..known_sides import OURS, TITLES
from ..machine import processor
from ..measure import Row
from ..result import Result
from ..sides.training_steps import FLOAT
from .performance_tables import setting_title, settings, with_setting

SWEEP_AXES = {"channels": "input channels", "kernel": "filter size"}
# What speed-ups are over: of the sides that were measured the first of these, else the last one measured.
BASES = ("ort_float", "torch_float", FLOAT, "cudnn_bf16", "cudnn_bf16_network")
FIRST = "xnorkit_onnx"  # what ships of ours comes before the PyTorch module that it is made from


def plot(result: Result, path: Path) -> None:
    """A sweep as lines beside the paper's formula, anything else as bars."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    if result.kind in SWEEPS:
        _lines(axes, result.kind, result.groups[""])
    elif result.kind == "kernels":
        _gmacs(axes, result.groups)
    else:
        _speed_ups(axes, result.groups.values())
    first = next(iter(result.groups.values()))
    axes.set_title(f"{processor(result.environment)}; {setting_title(settings(first)[0])}", fontsize="medium")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(axes: Axes, kind: str, rows: list[Row]) -> None:
    cases = SWEEPS[kind]
    sizes = {name: getattr(case, "channels" if kind == "channels" else "kernel") for name, case in cases.items()}
    axes.plot(sizes.values(), [papers_speedup(c) for c in cases.values()], "k--", label="64 c N_W / (c N_W + 64)")
    sides = list(dict.fromkeys(row.side for row in rows if row.ratio))
    for side in sides[1:]:
        points = [(sizes[row.case], row.ratio) for row in rows if row.side == side and row.ratio]
        axes.plot(*zip(*points, strict=True), "o-", label=f"{TITLES[sides[0]]}, measured against {TITLES[side]}")
    if kind == "channels":
        axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes.values()), [str(size) for size in sizes.values()])
    axes.set_xlabel(SWEEP_AXES[kind])
    axes.set_ylabel("speed-up")


def _bars(axes: Axes, groups: dict[str, dict[str, float]]) -> None:
    """Groups of bars side by side: label -> case -> value."""
    cases = list(dict.fromkeys(case for values in groups.values() for case in values))
    width = 0.8 / max(1, len(groups))
    for i, (label, values) in enumerate(groups.items()):
        places = [cases.index(case) - 0.4 + (i + 0.5) * width for case in values]
        axes.bar(places, values.values(), width, label=label)
    axes.set_xticks(range(len(cases)), cases, rotation=20, ha="right", fontsize="small")


def speed_ups(rows: list[Row]) -> tuple[str, dict[str, dict[str, float]]]:
    """The side that is compared with, and of each other one, ours first: case -> how many times as fast it is."""
    times = {(row.side, row.case): row.median_us for row in with_setting(rows, settings(rows)[0]) if row.median_us}
    sides = sorted(dict.fromkeys(side for side, _ in times), key=lambda side: side != FIRST)
    base = next((side for side in BASES if side in sides), (sides or [rows[0].side])[-1])
    found = {side: {} for side in sides if side != base}
    for (side, case), time in times.items():
        if side != base and (base, case) in times:
            found[side][case] = times[base, case] / time
    return base, found


def _speed_ups(axes: Axes, groups: Iterable[list[Row]]) -> None:
    bases, bars = zip(*map(speed_ups, groups), strict=True)
    _bars(axes, {TITLES[side]: values for group in bars for side, values in group.items()})
    over = " or ".join(TITLES[base] for base in bases)
    axes.axhline(1, color="k", linewidth=1, label=over)
    axes.set_ylabel(f"speed-up over {over}")


def _gmacs(axes: Axes, groups: dict[str, list[Row]]) -> None:
    ours = {kernel: [row for row in rows if row.side == OURS] for kernel, rows in groups.items()}
    bars = {kernel: {row.case: row.gmacs for row in rows} for kernel, rows in ours.items() if rows}
    limits = [row.gmacs for rows in groups.values() for row in rows if row.side == "limit" and row.gmacs]
    _bars(axes, bars)
    if limits:
        axes.axhline(max(limits), color="k", linestyle="--", label="xor + popcount + add limit")
    axes.set_ylabel("GMAC/s")
