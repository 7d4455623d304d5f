"""Choose float, 8 bits, a few or 1 for each layer of a trained network: the smallest or fastest within a drop.

    python tools/search.py runs/NAME                                  smallest weights, at most 1 point of accuracy less
    python tools/search.py runs/NAME --max-drop 0.2 --json mixed.json
    python tools/search.py runs/NAME --objective latency --scheme xnor --scheme dorefa:w_bits=1,a_bits=2

Nothing is trained: see quantize.search. The last line is the command's flag to train with what was found:
`--override mixed.json`, or the overrides one by one.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import quantize
from quantize.mixed_precision.search import OBJECTIVES, SCHEMES
from tools.command_line import exit_code, tool_parser
from tools.evaluating.runs import add_run_flags, check_folders, open_run
from training import evaluate


def run(flags: argparse.Namespace) -> None:
    """Search and report. Raises ValueError or OSError, in one sentence."""
    check_folders(flags.json)
    opened = open_run(flags)
    calibration = [images for images, _ in opened.calibration]
    found = quantize.search(
        opened.model,
        lambda changed: evaluate(changed, opened.test).top1,
        calibration[0][:1],
        flags.max_drop,
        objective=flags.objective,
        schemes=flags.scheme or SCHEMES,
        calibration=calibration,
    )
    print(f"{opened.info.arch} ({opened.info.scheme or 'float'}) on {opened.config.dataset}\n\n{found}\n")
    if flags.json is not None:
        found.save(flags.json)
        print(shlex.join(["--override", str(flags.json)]))
    else:
        print(shlex.join(f"--override={name}={scheme or 'none'}" for name, scheme in found.overrides.items()))


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    add_run_flags(parser)
    parser.add_argument("--max-drop", type=float, default=1.0, metavar="POINTS", help="default: %(default)s")
    parser.add_argument("--objective", default=OBJECTIVES[0], help=f"{', '.join(OBJECTIVES)}; default: %(default)s")
    parser.add_argument("--scheme", action="append", help=f"to choose from, repeated; default: {' '.join(SCHEMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was found, for --override and for programs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return exit_code("search", lambda: run(parse_flags(argv)))


if __name__ == "__main__":
    sys.exit(main())
