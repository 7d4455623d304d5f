"""Accuracy, latency and size of what ships: a checkpoint, a packed file or an ONNX file.

    python tools/evaluate.py runs/NAME                       the best checkpoint, on the set it was trained on
    python tools/evaluate.py packed.pt --dataset mnist       one of tools/convert.py
    python tools/evaluate.py net.onnx --dataset mnist --data-dir data
    python tools/evaluate.py lenet5_xnornet --pretrained mnist           a network that comes with the package
    python tools/evaluate.py --compare runs/NAME net.onnx    where two of them disagree, image by image
    python tools/evaluate.py --compare runs/NAME net.onnx --save DIR     with DIR/disagreements.png

All of them see the same test images, each normalized as in its training; an ONNX file that does not say how gets
the set's own normalization. The latency is that of one image at a time, of the network alone, on the CPU.

Exit codes: 0 done, 1 --compare found predictions that differ, 2 something that cannot be used.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from tools.benchmarking.timing import Times
from tools.command_line import exit_code, positive, tool_parser
from tools.evaluating.artefacts import Artefact, answers, open_artefact, open_images, open_pretrained
from tools.evaluating.comparison import COLUMNS, ROWS, compare, contact_sheet
from training.data import Data
from training.watch.console import say, skipped_lines

SHEET = "disagreements.png"
TIMED, WARM_UP = 100, 10  # images


def latency(artefact: Artefact, data: Data) -> Times:
    """Seconds that each of the first ``TIMED`` test images takes alone."""
    order = torch.arange(min(TIMED, data.test.count))
    ((pixels, _),) = data.test.raw_batches([order])
    images = artefact.normalization(pixels).split(1)
    for image in images[:WARM_UP]:
        artefact.run(image)
    return Times([[_seconds(artefact, image) for image in images]])


def _seconds(artefact: Artefact, image: Tensor) -> float:
    start = time.perf_counter()
    artefact.run(image)
    return time.perf_counter() - start


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    return 100 * float((outputs.argmax(1) == labels).double().mean())


def evaluate(artefact: Artefact, data: Data, threads: int) -> str:
    """Three lines: accuracy, latency, size."""
    outputs, labels = answers(artefact, data)
    times = latency(artefact, data)
    return (
        f"accuracy  {accuracy(outputs, labels):.2f}% of {len(labels):,} test images of {artefact.dataset}\n"
        f"latency   median {1000 * times.median:.3f} ms, p95 {1000 * times.quantile(0.95):.3f} ms: one image, "
        f"{threads} thread{'s' * (threads > 1)}\n"
        f"size      {artefact.path.stat().st_size:,} bytes ({artefact.kind})"
    )


def compare_artefacts(pair: Sequence[Artefact], data: Data, save: Path | None) -> int:
    """Print how the two differ and save the contact sheet; the exit code."""
    (a, labels), (b, _) = (answers(artefact, data) for artefact in pair)
    found = compare(a, b, labels, data.classes)
    for name, artefact, outputs in zip("AB", pair, (a, b), strict=True):
        print(f"{name}  {accuracy(outputs, labels):6.2f}%  {artefact.path} ({artefact.kind})")
    print(found)
    if not found.disagreements:
        return 0
    if save is not None:
        shown = found.disagreements[: COLUMNS * ROWS]
        ((images, _),) = data.test.raw_batches([torch.tensor([d.index for d in shown])])
        contact_sheet(images, shown, save / SHEET)
        print(f"\n{save / SHEET}: the first {len(shown)}")
    return 1


def run(flags: argparse.Namespace) -> int:
    """Evaluate or compare; the exit code. Raises ValueError or OSError, in one sentence."""
    if flags.save is not None and flags.compare is None:
        raise ValueError("--save is for the pictures that --compare finds; give both")
    if flags.save is not None and flags.save.exists() and not flags.save.is_dir():
        raise NotADirectoryError(f"--save {str(flags.save)!r} is a file; name a directory")
    if flags.pretrained is not None and flags.compare is not None:
        raise ValueError("--pretrained goes with one network's name; --compare takes files")
    if flags.pretrained is not None:
        opened = [open_pretrained(flags.model, flags.pretrained, flags.threads)]
    else:
        opened = [open_artefact(path, flags.threads) for path in flags.compare or [flags.model]]
    data, artefacts = open_images(opened, flags.dataset, flags.data_dir, flags.skip_corrupt)
    code = 0
    if flags.compare is not None:
        code = compare_artefacts(artefacts, data, flags.save)
    else:
        print(evaluate(artefacts[0], data, flags.threads))
    say(*skipped_lines(data.skipped))
    return code


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("model", nargs="?", metavar="MODEL", help="a .pt file, the directory of a run, or an .onnx file")
    parser.add_argument("--pretrained", metavar="DATASET", help="MODEL names a network of the zoo, trained on it")
    files.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two of them")
    parser.add_argument("--dataset", help="default: the one that it was trained on")
    parser.add_argument("--data-dir", metavar="DIR", help="default: that of the training, or data")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave pictures out that cannot be read")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("--save", type=Path, metavar="DIR", help=f"with --compare: {SHEET} of the first ones")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return exit_code("evaluate", lambda: run(parse_flags(argv)))


if __name__ == "__main__":
    sys.exit(main())
