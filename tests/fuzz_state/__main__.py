"""Changes the structure of valid checkpoints and packed files, and opens them in every way there is.

PYTHONPATH=tests:. python -m fuzz_state --mutants 2000 --seed 0

No mutant may end in anything but a result or one sentence. Mutants are numbered and the same everywhere:
`--first N --mutants 1 --keep DIR` repeats number N and writes its file.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from .driver import fuzz
from .mutations import mutant
from .seeds import write_seeds


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000, help="how many (default %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one's number (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another has other mutants (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="a directory for the files of mutants that fail")
    return parser.parse_args()


def main() -> int:
    args = parse()
    with tempfile.TemporaryDirectory() as directory:
        seeds = write_seeds(Path(directory))
        counts, failures = fuzz(seeds, Path(directory), range(args.first, args.first + args.mutants), args.seed)
        print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
        for number, what in failures.items():
            name, change, contents = mutant(seeds, number, args.seed)
            print(f"mutant {number} of {name} ({change}): {what}")
            if args.keep:
                import torch

                args.keep.mkdir(parents=True, exist_ok=True)
                torch.save(contents, args.keep / f"{number}.pt")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
