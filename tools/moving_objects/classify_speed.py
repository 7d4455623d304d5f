"""How long classifying the regions of a picture takes.

    python -m tools.moving_objects.classify_speed runs/NAME packed.pt net.onnx [--regions 8] [--threads 1]

The regions are cut from a made picture of 352x288 pixels; cutting and resizing them is counted. What a network has
learned makes no difference. The classifiers take turns. On a busy machine the CPU time, that of all threads together,
says more than that of the clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

import cv2

from quantize.table import format_table
from tools.arguments import positive

from .classify import Classifier, load_classifier
from .regions import Box
from .synthetic import WIDTH, render

CALLS, WARM_UP = 200, 5
SIDE = 64  # pixels of a region


def squares(count: int) -> list[Box]:
    """``count`` regions side by side, as far apart as the picture allows."""
    lefts = (round(i * (WIDTH - SIDE) / max(1, count - 1)) for i in range(count))
    return [Box(left, 100, left + SIDE, 100 + SIDE) for left in lefts]


def measure(classifiers: Mapping[str, Classifier], boxes: list[Box]) -> dict[str, list[float]]:
    """Classifier -> medians in milliseconds: of the clock, and of CPU time."""
    ((image, _),) = render(1)
    times = {name: [] for name in classifiers}
    for _ in range(WARM_UP + CALLS):
        for name, classifier in classifiers.items():
            start = time.perf_counter(), time.process_time()
            classifier(image, boxes)
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {name: map(statistics.median, zip(*found[WARM_UP:], strict=True)) for name, found in times.items()}
    return {name: [1000 * seconds for seconds in found] for name, found in medians.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifiers", nargs="+", metavar="NAME", help="as --classifier of tools/moving_objects")
    parser.add_argument("--regions", type=positive, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: %(default)s")
    flags = parser.parse_args(argv)
    cv2.setNumThreads(flags.threads)
    try:
        loaded = {name: load_classifier(name, threads=flags.threads) for name in flags.classifiers}
    except (ValueError, OSError) as error:
        print(f"classify_speed: error: {error}", file=sys.stderr)
        return 2
    found = measure(loaded, squares(flags.regions))
    rows = [(name, *(f"{median:.2f}" for median in medians)) for name, medians in found.items()]
    print(format_table(("classifier", "median ms", "CPU ms"), rows, ("median ms", "CPU ms")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
