"""Choose float, 8 bits, a few or 1 for each layer of a trained network: the smallest or fastest within a drop.

    python tools/search.py runs/NAME                                  smallest weights, at most 1 point of accuracy less
    python tools/search.py runs/NAME --max-drop 0.2 --json mixed.json
    python tools/search.py runs/NAME --objective latency --scheme xnor --scheme dorefa:w_bits=1,a_bits=2

Nothing is trained: see quantize.search. The last line is the command's flag to train with what was found:
`--override mixed.json`, or the overrides one by one.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import quantize
from quantize.mixed_precision.search import OBJECTIVES, SCHEMES
from tools.command_line import exit_code, tool_parser
from tools.sensitivity import Sample
from training import evaluate
from training.checkpoint import BEST, find_checkpoint
from training.evaluation import open_checkpoint


def run(flags: argparse.Namespace) -> None:
    """Search and report. Raises ValueError or OSError, in one sentence."""
    if flags.calibrate < 1:
        raise ValueError(f"--calibrate is {flags.calibrate}; it must be at least 1 batch")
    if flags.json is not None and not flags.json.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"there is no directory {str(flags.json.parent)!r} for {flags.json.name!r}; make it first"
        )
    given = {name: getattr(flags, name) for name in ("dataset", "data_dir", "gpu") if hasattr(flags, name)}
    model, info, data, config = open_checkpoint(find_checkpoint(flags.checkpoint, BEST), given)
    sample = Sample(data.test, data.test.count if flags.count is None else flags.count)
    calibration = [images for images, _ in itertools.islice(data.train, flags.calibrate)]
    found = quantize.search(
        model,
        lambda changed: evaluate(changed, sample).top1,
        calibration[0][:1],
        flags.max_drop,
        objective=flags.objective,
        schemes=flags.scheme or SCHEMES,
        calibration=calibration,
    )
    print(f"{info.arch} ({info.scheme or 'float'}) on {config.dataset}\n\n{found}\n")
    if flags.json is not None:
        found.save(flags.json)
        print(shlex.join(["--override", str(flags.json)]))
    else:
        print(shlex.join(f"--override={name}={scheme or 'none'}" for name, scheme in found.overrides.items()))


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .pt file, or the directory of a run")
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help="default: the one that it was trained on")
    parser.add_argument("--data-dir", default=argparse.SUPPRESS, metavar="DIR", help="default: that of the training")
    parser.add_argument("--gpu", default=argparse.SUPPRESS, help="as of trainer_exp.py")
    parser.add_argument("--max-drop", type=float, default=1.0, metavar="POINTS", help="default: %(default)s")
    parser.add_argument("--objective", default=OBJECTIVES[0], help=f"{', '.join(OBJECTIVES)}; default: %(default)s")
    parser.add_argument("--scheme", action="append", help=f"to choose from, repeated; default: {' '.join(SCHEMES)}")
    parser.add_argument("--count", type=int, metavar="N", help="test images; default: all")
    parser.add_argument("--calibrate", type=int, default=10, metavar="N", help="training batches; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="what was found, for --override and for programs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return exit_code("search", lambda: run(parse_flags(argv)))


if __name__ == "__main__":
    sys.exit(main())
