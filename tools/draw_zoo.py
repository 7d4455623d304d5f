"""Draw the trained networks that come with the package: accuracy against size and against time, and how they got it.

    python tools/draw_zoo.py                     to READMEs/images/zoo.png, and zoo_DATASET.png for each set
    python tools/draw_zoo.py --out FILE.png      the first alone

A network is an arrow from its float twin to what ships. Accuracies and bytes are those of READMEs/zoo.md, times those
of the first processor that tools/benchmark.py --network has kept; a network that has not been timed is on the left
alone. zoo_DATASET.png are the curves of the runs that ended in these networks, of their kept logs.
Exit codes: 0 done, 2 something that cannot be used.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
from models import zoo
from tools.command_line import exit_code, tool_parser
from tools.plot_curves import Curves
from tools.plot_curves import draw as draw_curves
from tools.reproducing.kept_logs import READMES
from tools.zoo_page import curves_file, float_bytes, times
from training.watch.runlog import read_log

OUT = READMES / "images" / "zoo.png"
FLOAT, BINARY = "C1", "C0"
MARGIN = 1  # points of accuracy above and below, lest a single network's tenths look like a cliff
FEW = 3  # networks whose figures find room beside their dots
KEY = "Source"  # the text in the picture's file that says what it shows


@dataclasses.dataclass(frozen=True)
class Network:
    """What is drawn of one: pairs are (float, binary), None where it has not been measured."""

    name: str
    data: str
    accuracy: tuple[float | None, float]
    kilobytes: tuple[float, float]
    milliseconds: tuple[float, float] | None


def networks() -> tuple[str, list[Network]]:
    """(processor of the times, every network of the registry)."""
    processor, medians = next(iter(times()), ("no processor", {}))
    return processor, [_network(models.get_pretrained(*key), medians) for key in models.list_pretrained()]


def _network(entry: zoo.Pretrained, medians: dict[tuple[str, str], float]) -> Network:
    binary_bytes = (zoo.WEIGHTS / entry.onnx["file"]).stat().st_size
    pair = [medians.get((entry.name, side)) for side in ("ort_float", "xnorkit_onnx")]
    return Network(
        name=entry.name,
        data=entry.dataset,
        accuracy=(entry.float_accuracy, entry.accuracy),
        kilobytes=(float_bytes(entry) / 1000, binary_bytes / 1000),
        milliseconds=None if None in pair else (pair[0] / 1000, pair[1] / 1000),
    )


def source(processor: str, drawn: Sequence[Network]) -> str:
    """What a picture shows, as text, to tell whether it is of today."""
    return json.dumps([processor, *map(dataclasses.asdict, drawn)])


def draw(processor: str, drawn: Sequence[Network]):
    """A matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(9, 3.4 + 0.2 * len(drawn)), layout="constrained")
    size, time = figure.subplots(1, 2, sharey=True)
    few = len(drawn) <= FEW
    for network in drawn:
        _arrow(size, network, network.kilobytes, few and "{:,.0f} kB")
        if network.milliseconds:
            _arrow(time, network, network.milliseconds, few and "{:.2g} ms")
    _label(size, time, processor, drawn)
    dots = [Line2D([], [], marker="o", linestyle="", color=colour) for colour in (FLOAT, BINARY)]
    figure.legend(dots, ["float", "binary"], loc="outside upper center", ncols=2, frameon=False)
    return figure


def _label(size, time, processor: str, drawn: Sequence[Network]) -> None:
    """Names and scales of both axes."""
    from matplotlib.ticker import LogLocator

    size.set(xlabel="kB: of the weights in float, of the ONNX file in bits", title="What is shipped")
    size.set_ylabel("top-1 on the test set in %")
    time.set(xlabel="ms an image, onnxruntime on one thread", title=processor)
    low, high = min(net.accuracy[1] for net in drawn), max(net.accuracy[0] or net.accuracy[1] for net in drawn)
    margin = max(MARGIN, 0.15 * (high - low))
    size.set_ylim(low - margin, high + margin)
    size.yaxis.set_major_formatter(lambda accuracy, _: f"{accuracy:g}" if accuracy <= 100 else "")
    for axis in (size, time):
        axis.set_xscale("log")
        axis.margins(x=0.4)
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 1000 * low else (1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.title.set_size("medium")
        axis.grid(alpha=0.3)


def _arrow(axis, network: Network, xs: tuple[float, float], unit: str | bool) -> None:
    """From the float twin, if it was trained, to the binary network; with figures where ``unit`` says how."""
    for x, y, colour in zip(xs, network.accuracy, (FLOAT, BINARY), strict=True):
        if y is not None:
            axis.plot(x, y, "o", color=colour, markersize=8)
            figure = unit.format(x) if unit else ""
            axis.annotate(figure, (x, y), (0, 9), textcoords="offset points", ha="center", fontsize="small")
    name, end = f"{network.name}, {network.data}", (xs[1], network.accuracy[1])
    axis.annotate(name, end, (0, -16), textcoords="offset points", ha="center", fontsize="small")
    if network.accuracy[0] is not None:
        ends = [(x, y) for x, y in zip(xs, network.accuracy, strict=True)]
        style = {"arrowstyle": "->", "color": "grey", "shrinkA": 7, "shrinkB": 7}
        axis.annotate("", ends[1], ends[0], arrowprops=style)


def curves_of(dataset: str) -> dict[str, Curves]:
    """Top-1 by epoch of the runs that ended in the registry's networks for ``dataset``."""
    entries = [models.get_pretrained(*key) for key in models.list_pretrained() if key[1] == dataset]
    epochs = {e.name: [x for x in read_log(READMES / "runs" / e.log) if x["kind"] == "epoch"] for e in entries}
    return {
        name: Curves(*({x["epoch"]: x[part]["top1"] for x in found} for part in ("train", "test")))
        for name, found in epochs.items()
    }


def save(path: Path) -> None:
    """Draw into a file. Raises ValueError or OSError where that cannot be."""
    if path.suffix != ".png":
        raise ValueError(f"{str(path)!r} is not a .png file; name one")
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = networks()
    draw(*shown).savefig(path, dpi=100, metadata={KEY: source(*shown)})
    print(path)


def save_curves(dataset: str) -> None:
    """Draw how the networks for one set were trained."""
    curves, path = curves_of(dataset), OUT.with_name(curves_file(dataset))
    draw_curves(curves).savefig(path, dpi=100, metadata={KEY: json.dumps(curves)})
    print(path)


def run(out: Path | None) -> None:
    """Draw the one picture that is asked for, or all."""
    save(out or OUT)
    if out is None:
        for dataset in sorted({dataset for _, dataset in models.list_pretrained()}):
            save_curves(dataset)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("--out", type=Path, help="default: READMEs/images/zoo.png, and the curves beside it")
    flags = parser.parse_args(argv)
    return exit_code("draw_zoo", lambda: run(flags.out))


if __name__ == "__main__":
    sys.exit(main())
