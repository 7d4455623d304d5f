"""Write the packed file of a checkpoint: one bit a binary weight, and all that is needed to load it.

    python tools/convert.py runs/NAME                    the best checkpoint of a run, to runs/NAME/packed.pt
    python tools/convert.py runs/NAME/last.pt net.pt

The file loads with training.load_model, tools/evaluate.py and tools/moving_objects, without the data it was
trained on. It is for inference; training goes on from the checkpoint.
Exit codes: 0 done, 2 something that cannot be used.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.command_line import exit_code, tool_parser

PACKED_FILE = "packed.pt"


def choose_output(out: Path | None, checkpoint: Path) -> Path:
    """Where to write. Raises OSError or ValueError, in one sentence, where that is no place for a file."""
    out = checkpoint.with_name(PACKED_FILE) if out is None else out.expanduser()
    if out.is_dir():
        raise IsADirectoryError(f"{str(out)!r} is a directory; name a file in it, such as {str(out / PACKED_FILE)!r}")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no directory {str(out.parent)!r} to write {out.name!r} to; make it first")
    if out.resolve() == checkpoint.resolve():
        raise ValueError(f"{str(out)!r} is the checkpoint itself, which training needs; write to another file")
    return out


def convert(checkpoint: Path, out: Path | None = None) -> str:
    """Write the packed file; what became of each layer, and the sizes.

    Raises ValueError or OSError, in one sentence.
    """
    import quantize  # here: torch takes seconds, which --help and a mistyped flag need not wait for
    from training.checkpoint import BEST, find_checkpoint, read_checkpoint, save_checkpoint
    from training.evaluation import pack

    source = find_checkpoint(checkpoint, BEST)
    out = choose_output(out, source)
    trained = read_checkpoint(source)
    packed, contents = pack(trained, str(source))
    save_checkpoint(out, contents)
    size, weights = out.stat().st_size, sum(t.numel() * t.element_size() for t in trained["model"].values())
    return (
        f"{quantize.conversion_report(packed)}\n"
        f"{out}: {size:,} bytes, {weights / size:.1f}x smaller than the {weights:,} bytes of float weights in {source}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .pt file, or the directory of a run")
    parser.add_argument("out", type=Path, nargs="?", help=f"default: {PACKED_FILE} beside the checkpoint")
    flags = parser.parse_args(argv)
    return exit_code("convert", lambda: print(convert(flags.checkpoint, flags.out)))


if __name__ == "__main__":
    sys.exit(main())
