"""What a trained network reaches in fixed-point arithmetic, and how few bits it needs.

    python tools/fixed_point.py --model runs/NAME                       the published formats, beside float
    python tools/fixed_point.py --model runs/NAME --mode float          the float network alone, to compare with
    python tools/fixed_point.py --model runs/NAME --total-bits 10 --int-bits conv=6 linear=8
    python tools/fixed_point.py --model runs/NAME --settings bits.txt   lines NAME T I, of layers and parameters
    python tools/fixed_point.py --model runs/NAME --search 0.5          the smallest T that loses 0.5 points at most

T magnitude bits, I of them before the binary point, the sign extra. Batch norm is merged into a scale and an
offset in both modes. The guide is READMEs/fixed_point.md.
Exit codes: 0 done, 1 no width loses as little as --search allows, 2 something that cannot be used.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import nn

from quantize.words import did_you_mean, format_table
from tools.command_line import exit_code, tool_parser
from tools.fixed_arithmetic.fixed_formats import (
    INTEGER_BITS,
    KINDS,
    MOST_BITS,
    OWN_FORMATS,
    TOTAL_BITS,
    Formats,
    read_settings,
)
from tools.fixed_arithmetic.fixed_network import LayerRecord, fixed_network, merged_network
from tools.sensitivity import Sample
from training import evaluate
from training.checkpoint import BEST, find_checkpoint
from training.config.defaults import resolve
from training.data import Normalization
from training.evaluation import Trained, open_checkpoint
from training.watch.console import say
from training.watch.metrics import Metrics

MODES = FIXED, FLOAT = ("fixed", "float")
SEARCH_LOSS = 0.3  # points, where --search names none


def smallest_width(accuracy: Callable[[int], float], reference: float, loss: float, most: int) -> int | None:
    """The smallest T from 1 to ``most`` with ``accuracy(T) >= reference - loss``, in points; None without one.

    Every smaller one was tried: accuracy need not rise with T.
    """
    for bits in range(1, most + 1):
        # Accuracies are multiples of 100 / images: 6 digits remove what float adds to a difference.
        if round(reference - accuracy(bits), 6) <= loss:
            return bits
    return None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A float network beside itself in fixed point, on the same images.

    Attributes:
        model: the trained network.
        normalization: of the pixels.
        sample: of pixels in 0 to 1, and labels.
        formats: T of which :meth:`search` replaces.
    """

    model: nn.Module
    normalization: Normalization
    sample: Sample
    formats: Formats

    def check(self) -> None:
        """Raises ValueError for a format of a tensor that the network does not have."""
        fixed_network(self.model, self.normalization, self.formats)

    def float_metrics(self) -> Metrics:
        """Of the network with merged batch norms."""
        return evaluate(merged_network(self.model, self.normalization), self.sample)

    def fixed_metrics(self, total_bits: int) -> tuple[Metrics, list[LayerRecord]]:
        """Of the network in fixed point, and what happened in its layers."""
        formats = dataclasses.replace(self.formats, total_bits=total_bits)
        network, records = fixed_network(self.model, self.normalization, formats)
        return evaluate(network, self.sample), records

    def search(self, reference: float, loss: float) -> int | None:
        """:func:`smallest_width`, with a line for each that is tried."""

        def accuracy(bits: int) -> float:
            top1 = self.fixed_metrics(bits)[0].top1
            say(f"tried {bits:2}{top1:7.2f}%  {top1 - reference:+.2f} points from float")
            return top1

        return smallest_width(accuracy, reference, loss, self.formats.total_bits)


def layer_table(records: Sequence[LayerRecord]) -> str:
    """A row a layer that ran."""
    header = ("layer", "kind", "T", "I", "clipped", "SNR", "parameters")
    rows = (
        (r.name, r.kind, r.format.total, r.format.integer, f"{r.clipping_rate:.4%}", ratio(r.snr), ratio(r.parameters))
        for r in records
        if r.values
    )
    return format_table(header, rows, header[2:])


def ratio(decibels: float | None) -> str:
    """In dB; "exact" where rounding changed nothing."""
    if decibels is None:
        return "-"
    return "exact" if math.isinf(decibels) else f"{decibels:.1f} dB"


def open_comparison(flags: argparse.Namespace) -> tuple[Comparison, Trained]:
    """The network and images that the flags name. Raises ValueError or OSError, in one sentence."""
    named = {} if flags.settings is None else read_settings(flags.settings)
    given = {name: getattr(flags, name) for name in ("dataset", "data_dir", "gpu") if hasattr(flags, name)}
    trained = open_checkpoint(find_checkpoint(flags.model, BEST), given, test_only=True)
    own = OWN_FORMATS.get(resolve(trained.info.arch).arch, {})
    formats = Formats(flags.total_bits, INTEGER_BITS | dict(flags.int_bits), own | named)
    loader = trained.data.test
    sample = Sample(loader, loader.count if flags.count is None else flags.count)
    channels = len(loader.normalization.mean)
    loader.normalization = Normalization((0.0,) * channels, (1.0,) * channels)  # pixels: the network normalizes
    return Comparison(trained.model, trained.info.normalization, sample, formats), trained


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for what would fail only after the float network has run."""
    if flags.search is not None and flags.mode == FLOAT:
        raise ValueError("--search looks for widths of fixed point; leave out --mode float")
    if flags.search is not None and not 0 <= flags.search < 100:
        raise ValueError(f"--search is {flags.search}; it must be from 0 to below 100 points")


def run(flags: argparse.Namespace) -> int:
    """Compare and report; the exit code. Raises ValueError or OSError, in one sentence."""
    check_flags(flags)
    comparison, (_, info, _, config) = open_comparison(flags)
    if flags.mode == FIXED:
        comparison.check()  # a wrong name shall not cost a float run
    reference = comparison.float_metrics()
    say(f"{info.arch} ({info.scheme or 'float'}) on {config.dataset}, {reference.images:,} test images")
    say(f"float   {reference.top1:6.2f}%  time {reference.seconds:.1f}s")
    if flags.mode == FLOAT:
        return 0
    bits = flags.total_bits
    if flags.search is not None:
        bits = comparison.search(reference.top1, flags.search)
    if bits is None:
        print(f"fixed_point: no T up to {flags.total_bits} loses at most {flags.search} points", file=sys.stderr)
        return 1
    metrics, records = comparison.fixed_metrics(bits)
    difference = metrics.top1 - reference.top1
    say(f"T = {bits:2}  {metrics.top1:6.2f}%  time {metrics.seconds:.1f}s  {difference:+.2f} points from float")
    say("", layer_table(records))
    return 0


def kind_and_bits(text: str) -> tuple[str, int]:
    """``KIND=BITS``."""
    kind, _, bits = text.partition("=")
    if kind not in KINDS or not bits.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=BITS with a whole number; {did_you_mean(kind, KINDS)}")
    return kind, int(bits)


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="CHECKPOINT", help="a .pt file, or a run")
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help="default: the one that it was trained on")
    parser.add_argument("--data-dir", default=argparse.SUPPRESS, metavar="DIR", help="default: that of the training")
    parser.add_argument("--gpu", default=argparse.SUPPRESS, help="as of trainer_exp.py")
    parser.add_argument("--mode", choices=MODES, default=FIXED, help="default: %(default)s, beside float")
    parser.add_argument("--count", "--no", type=int, metavar="N", help="test images; default: all")
    parser.add_argument(
        "--total-bits",
        type=int,
        default=TOTAL_BITS,
        metavar="T",
        help=f"1 to {MOST_BITS}; of all but the image and what has a format by name; default: %(default)s",
    )
    default = " ".join(f"{kind}={bits}" for kind, bits in INTEGER_BITS.items())
    parser.add_argument(
        "--int-bits",
        nargs="+",
        type=kind_and_bits,
        default=[],
        metavar="KIND=I",
        help=f"of outputs; default: {default}",
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="formats by name, a line NAME T I each")
    parser.add_argument(
        "--search",
        nargs="?",
        type=float,
        const=SEARCH_LOSS,
        metavar="POINTS",
        help="the smallest T up to --total-bits that loses at most so many points; alone: %(const)s",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return exit_code("fixed_point", lambda: run(parse_flags(argv)))


if __name__ == "__main__":
    sys.exit(main())
