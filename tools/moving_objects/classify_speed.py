"""How long classifying the regions of a picture takes.

    python -m tools.moving_objects.classify_speed runs/NAME packed.pt net.onnx [--regions 8] [--threads 1]

The regions are cut from a made picture of 352x288 pixels; cutting and resizing them is counted. What a network has
learned makes no difference. The classifiers take turns; calls that other processes interrupted do not count.
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence

from quantize.words import format_table
from tools.benchmarking.timing import Contestant, Timer, Times
from tools.command_line import exit_code, imports_of, positive, tool_parser

with imports_of(__name__, "classify_speed"):
    import cv2

    from .classify import Classifier, load_classifier
    from .regions import Box
    from .synthetic import WIDTH, render

ROUNDS = 50
SIDE = 64  # pixels of a region


def squares(count: int) -> list[Box]:
    """``count`` regions side by side, as far apart as the picture allows."""
    lefts = (round(i * (WIDTH - SIDE) / max(1, count - 1)) for i in range(count))
    return [Box(left, 100, left + SIDE, 100 + SIDE) for left in lefts]


def measure(classifiers: Mapping[str, Classifier], boxes: list[Box], threads: int) -> dict[str, Times]:
    """Seconds of the calls of each classifier."""
    ((image, _),) = render(1)
    runs = [
        Contestant(name, threads, functools.partial(classifier, image, boxes))
        for name, classifier in classifiers.items()
    ]
    return dict(zip(classifiers, Timer(ROUNDS).measure(runs), strict=True))


def run(flags: argparse.Namespace) -> None:
    """Load, measure and print. Raises ValueError or OSError, in one sentence."""
    cv2.setNumThreads(flags.threads)
    loaded = {name: load_classifier(name, threads=flags.threads) for name in flags.classifiers}
    found = measure(loaded, squares(flags.regions), flags.threads)
    rows = [(name, *(f"{1000 * s:.2f}" for s in (t.median, t.calls[0], t.quantile(0.95)))) for name, t in found.items()]
    columns = ("median ms", "fastest ms", "p95 ms")
    print(format_table(("classifier", *columns), rows, columns))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("classifiers", nargs="+", metavar="NAME", help="as --classifier of tools/moving_objects")
    parser.add_argument("--regions", type=positive, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: %(default)s")
    return exit_code("classify_speed", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
