"""Damages valid packed ONNX files and runs them with our library in onnxruntime.

PYTHONPATH=tests python -m fuzz_ort --library build/libxnorkit_asan.so --mutants 10000

No mutant may crash, hang, or give another answer than the standard operators of its function bodies. Mutants are
numbered and the same everywhere: `--first N --mutants 1 --keep DIR` repeats number N and writes its file.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import quantize

from .driver import fuzz
from .mutations import mutant
from .seeds import write_seeds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="a build with -fsanitize=address; the installed library where left out")
    parser.add_argument("--mutants", type=int, default=10000, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one's number (default %(default)s)")
    parser.add_argument("--limit", type=float, default=300, help="seconds that one may take (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="a directory for the files of mutants that fail")
    return parser.parse_args()


def main() -> int:
    args = parse()
    with tempfile.TemporaryDirectory() as directory:
        models = write_seeds(Path(directory))
        library = args.library or quantize.custom_ops_library()
        counts, failures = fuzz(Path(directory), library, args.first, args.first + args.mutants, args.limit)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    for number, what in failures.items():
        name, change, data = mutant(models, number)
        print(f"mutant {number} of {name} ({change}): {what}")
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            (args.keep / f"{number}.onnx").write_bytes(data)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
