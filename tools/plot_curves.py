"""Draw train and test top-1 of one or more runs, from their TensorBoard files.

    python tools/plot_curves.py runs/NAME                             to curves.png
    python tools/plot_curves.py runs/NAME runs/OTHER --out both.png

A colour a run; training is dashed, testing solid. A run that was cut and continued is one curve.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.command_line import exit_code, tool_parser
from tools.reporting.run_dirs import nothing_in, run_dirs

EVENTS = "events.out.tfevents.*"
TAGS = ("top1/train", "top1/test")
PICTURES = (".png", ".svg", ".pdf")
WIDTH, HEIGHT = 5.2, 3.7  # inches, without the legend: as wide as a phone, where letters stay large enough
NAME = 60  # letters of a run's name on a line


class Curves(NamedTuple):
    """Top-1 in percent of one run, by epoch."""

    train: dict[int, float]
    test: dict[int, float]


def read_curves(run_dir: Path) -> Curves:
    """The curves in a run's TensorBoard files. Raises ValueError or OSError where there are none to be read."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any(run_dir.glob(EVENTS)):
        raise FileNotFoundError(nothing_in(run_dir, "TensorBoard file", EVENTS))
    events = EventAccumulator(str(run_dir))
    events.Reload()
    missing = [tag for tag in TAGS if tag not in events.Tags()["scalars"]]
    if missing:
        raise ValueError(
            f"the TensorBoard file in {str(run_dir)!r} has no {' and no '.join(missing)}: it is damaged, of another "
            "program, or the run was cut before its first epoch; draw another run"
        )
    return Curves(*({point.step: point.value for point in events.Scalars(tag)} for tag in TAGS))


def draw(runs: Mapping[str, Curves], title: str | None = None):
    """A matplotlib figure of runs by name."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["tab10" if len(runs) <= 10 else "tab20"].colors
    for i, (name, curves) in enumerate(runs.items()):
        colour = colours[i % len(colours)]
        marker = "o" if len(curves.test) == 1 else None  # a line of one point would not be seen
        axes.plot(curves.train.keys(), curves.train.values(), "--", marker=marker, color=colour, linewidth=1)
        label = textwrap.fill(name, NAME)
        axes.plot(curves.test.keys(), curves.test.values(), "-", marker=marker, color=colour, label=label)
    axes.set(xlabel="epoch", ylabel="top-1 (%)", title=title or "")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    styles = [Line2D([], [], color="grey", linestyle=s, label=label) for s, label in (("--", "train"), ("-", "test"))]
    _add_legend(figure, [*axes.get_legend_handles_labels()[0], *styles])
    return figure


def _add_legend(figure, handles: Sequence) -> None:
    """A legend below the axes in as many columns as fit, for which the figure becomes higher."""
    figure.set_figheight(10 * HEIGHT)  # of any legend, which is measured where it lies
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
        )
        figure.draw_without_rendering()
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(HEIGHT + box.height / figure.dpi)


def run(flags: argparse.Namespace) -> None:
    """Read and draw. Raises ValueError or OSError, in one sentence."""
    if flags.out.suffix not in PICTURES:
        raise ValueError(f"--out {str(flags.out)!r} must end in {', '.join(PICTURES)}")
    if not flags.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out {str(flags.out)!r}: there is no such directory; make it first")
    curves = {name: read_curves(path) for name, path in run_dirs(flags.runs).items()}
    draw(curves).savefig(flags.out, dpi=150)
    print(f"wrote {flags.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), metavar="FILE", help="default: %(default)s")
    return exit_code("plot_curves", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
