"""What each layer of a trained network costs by being binary, and which layers to keep float for it.

    python tools/sensitivity.py runs/NAME                            of a binary network's best checkpoint
    python tools/sensitivity.py runs/FLOAT --scheme bireal           of a float network
    python tools/sensitivity.py runs/NAME --plot cost.png --json cost.json --count 2000

One layer is changed at a time, and nothing is trained: a binary layer computes with its latent weights
and inputs as they are, a float one becomes binary. Then batch norm's statistics are estimated again, on
a few training batches: a layer's output has another mean and spread in float than in bits, and with the
old statistics all later layers would get shifted inputs, so that their staleness would be measured
instead of the bits. The unchanged network, which all are compared with, has them estimated again too.
A restored layer can do worse than the binary one: its latent weights were trained for their signs.

The last line is the flag to train with: layers that cost more than --limit points stay float.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import copy
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import Tensor, nn

import quantize
from quantize.planning.plan import NO_THRESHOLD, PENDING, LayerPlan
from quantize.words import format_table
from tools.command_line import exit_code, tool_parser
from tools.evaluating.runs import Sample, add_run_flags, check_folders, open_run
from training import evaluate
from training.config.defaults import resolve
from training.watch.console import progress

DEFAULT_SCHEME = "xnor"
PICTURES = (".png", ".svg", ".pdf")
ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # a number that lies on the line of the limit


@dataclasses.dataclass(frozen=True)
class Change:
    """One layer changed, everything else as it was.

    Attributes:
        layer: its name.
        now, changed_to: a scheme, or "float".
        accuracy: of the changed network, in percent; ``difference`` from the unchanged one, in points.
    """

    layer: str
    now: str
    changed_to: str
    accuracy: float
    difference: float

    @property
    def cost(self) -> float:
        """Points that the layer's being binary costs."""
        return self.difference if self.changed_to == "float" else -self.difference


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What :func:`measure` found.

    Attributes:
        accuracy: of the unchanged network in percent, with batch norm's statistics estimated again;
            ``stored_accuracy`` with the checkpoint's own.
        changes: in the model's order.
        not_changed: the weights that cannot become binary, each with the reason.
    """

    accuracy: float
    stored_accuracy: float
    changes: list[Change]
    not_changed: dict[str, str]

    def costly(self, limit: float) -> list[str]:
        """The layers that cost more than ``limit`` points."""
        return [c.layer for c in self.changes if c.cost > limit]


def estimate_statistics(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Set batch norm's running statistics to the averages over ``batches``, and thresholds that wait for a batch.

    Everything else (dropout, stochastic signs) computes as in evaluation, the mode that the model is left in.
    """
    quantize.set_progress(model, 1.0)  # training is over; a layer in training mode would ask
    quantize.estimate_statistics(model, [images for images, _ in batches])


def binary_rows(model: nn.Module, scheme: str, images: Tensor, **options: Any) -> quantize.Plan:
    """The plan of ``model`` as a float network.

    Thresholds wait for the first batch, since in ``model`` their inputs may come from binary layers.
    """
    is_binary = any(isinstance(module, quantize.BinaryLayer) for module in model.modules())
    plan = quantize.plan(quantize.restore(model) if is_binary else model, scheme, images, **options)
    for row in plan:
        row.threshold, row.start = (NO_THRESHOLD if row.threshold == NO_THRESHOLD else PENDING), None
    return plan


def change(model: nn.Module, row: LayerPlan) -> tuple[nn.Module, str, str]:
    """A copy with the layer of ``row`` restored where it is binary, else made binary; what it was and what it is."""
    model = copy.deepcopy(model)
    layer = dict(model.named_modules()).get(row.name)  # None: a projection, which an attention has once it is binary
    if not isinstance(layer, quantize.BinaryLayer):
        return quantize.apply_plan(model, quantize.Plan([row]), inplace=True), "float", row.scheme
    now = str(layer.scheme)
    quantize.restore(layer, inplace=True)
    return model, now, "float"


def measure(model: nn.Module, scheme: str, calibration: Sequence[tuple[Tensor, Tensor]], test: Sample) -> Sensitivity:
    """The accuracy on ``test`` with each layer changed alone; ``model`` is left as it is, in evaluation mode.

    Args:
        model: float or prepared.
        scheme: what float layers become.
        calibration: training batches that batch norm's statistics are estimated on.

    Raises ValueError for an unknown scheme, or a model without a layer that could be binary.
    """

    def accuracy(changed: nn.Module) -> float:
        estimate_statistics(changed, calibration)
        return evaluate(changed, test).top1

    stored = evaluate(model, test).top1
    rows = binary_rows(model, scheme, calibration[0][0], keep_float=())
    binary = {name for name, module in model.named_modules() if isinstance(module, quantize.BinaryLayer)}
    changeable = [row for row in rows if row.binary or row.name in binary]
    unchanged = accuracy(copy.deepcopy(model))
    changes = []
    for row in progress(changeable, len(changeable), "Layers"):
        changed, now, changed_to = change(model, row)
        top1 = accuracy(changed)
        changes.append(Change(row.name, now, changed_to, top1, top1 - unchanged))
    not_changed = {row.name: row.reason for row in rows if row not in changeable}
    return Sensitivity(unchanged, stored, changes, not_changed)


def plot(found: Sensitivity, limit: float, title: str, path: Path) -> None:
    """A bar a layer: points lost by its being binary."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.6 + 0.26 * len(found.changes)), layout="constrained")
    axes = figure.subplots()
    for restored, kind, colour in (
        (True, "binary now, restored alone", "tab:blue"),
        (False, "float now, made binary alone", "tab:orange"),
    ):
        bars = {i: c.cost for i, c in enumerate(found.changes) if (c.changed_to == "float") == restored}
        if bars:
            drawn = axes.barh(list(bars), list(bars.values()), color=colour, label=kind)
            axes.bar_label(drawn, fmt="%.1f", padding=3, bbox=ON_WHITE)
    axes.axvline(limit, color="grey", linestyle="--", linewidth=1, label=f"--limit {limit:g}")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found.changes)), [c.layer for c in found.changes])
    axes.invert_yaxis()  # the first layer on top
    axes.margins(x=0.12, y=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("accuracy points lost by being binary")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def table(found: Sensitivity) -> str:
    """The changes, then what could not be changed."""
    rows = [(c.layer, c.now, c.changed_to, f"{c.accuracy:.2f}%", f"{c.difference:+.2f}") for c in found.changes]
    lines = [format_table(("layer", "now", "changed to", "accuracy", "difference"), rows, ("accuracy", "difference"))]
    return "\n".join(lines + [f"not changed: {name}: {reason}" for name, reason in found.not_changed.items()])


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError or FileNotFoundError for what would fail only after the measurement."""
    if flags.plot is not None and flags.plot.suffix not in PICTURES:
        raise ValueError(f"--plot {str(flags.plot)!r} must end in {', '.join(PICTURES)}")
    check_folders(flags.plot, flags.json)


def run(flags: argparse.Namespace) -> None:
    """Measure and report. Raises ValueError or OSError, in one sentence."""
    check_flags(flags)
    model, info, config, calibration, test = open_run(flags)
    scheme = flags.scheme or info.scheme or resolve(info.arch).scheme or DEFAULT_SCHEME
    kept = binary_rows(model, scheme, calibration[0][0], keep_float=config.keep_float).kept_float
    found = measure(model, scheme, calibration, test)
    keep_float = [*config.keep_float, *(layer for layer in found.costly(flags.limit) if layer not in kept)]
    title = f"{info.arch} ({info.scheme or 'float'}) on {config.dataset}"
    print(
        f"{title}: {found.stored_accuracy:.2f}% of {test.count:,} test images; {found.accuracy:.2f}% with batch norm's "
        f"statistics from {sum(len(labels) for _, labels in calibration):,} training images\n\n{table(found)}\n"
    )
    if flags.json is not None:
        facts = {"checkpoint": str(info.path), "arch": info.arch, "scheme": scheme, "images": test.count}
        changes = [dataclasses.asdict(c) | {"cost": c.cost} for c in found.changes]
        report = {**facts, **vars(found), "changes": changes, "limit": flags.limit, "keep_float": keep_float}
        flags.json.write_text(json.dumps(report, indent=1) + "\n")
    if flags.plot is not None:
        plot(found, flags.limit, title, flags.plot)
    if 0 < flags.limit < 100 / test.count:
        points = f"{100 / test.count:.2g} points"
        print(f"Warning: one of {test.count} test images is {points}, above --limit; test on more of them")
    print(shlex.join(["--keep-float", *keep_float]))


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    add_run_flags(parser)
    parser.add_argument("--scheme", help=f"for float layers; default: the network's own, or {DEFAULT_SCHEME}")
    parser.add_argument("--limit", type=float, default=1, metavar="POINTS", help="default: %(default)s")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"a bar plot, {' '.join(PICTURES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the table and the flag, for programs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return exit_code("sensitivity", lambda: run(parse_flags(argv)))


if __name__ == "__main__":
    sys.exit(main())
