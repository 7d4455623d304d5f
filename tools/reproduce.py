"""Repeat published runs, and write the table of what came out to READMEs/results.md.

    python tools/reproduce.py --list                              the targets, each with its command
    python tools/reproduce.py lenet5_xnornet lenet5_float         these, downloading what --data-dir has not
    python tools/reproduce.py 'nin*' --gpu 0                      those whose names match
    python tools/reproduce.py 'scheme_*' --epochs 1               a shorter budget, marked so in the table
    python tools/reproduce.py 'nin*' --images DIR                 CIFAR-10 as pictures, DIR/train/<class>/ and DIR/test/

Each target has a directory under --runs. Started again, the command skips what is finished there and
continues what was cut; a row that was never run says so in the table.
Exit codes: 0 done, 1 a run had to stop, 2 something that cannot be used, 130 Ctrl-C.
"""

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantize.words import did_you_mean, format_table
from tools import results
from tools.command_line import tool_parser
from tools.reproducing.jobs import ALL, Job, Target
from tools.reproducing.running import finish, first_failure, place_flags, tool_exit_code
from tools.reproducing.targets import IMAGES_OF


def choose(patterns: Sequence[str], images: bool) -> list[Target]:
    """The targets with these names, or whose names match; with ``images`` a pattern stands for those of CIFAR-10.

    Raises ValueError for a name without a target.
    """
    chosen = {}
    for pattern in patterns:
        found = [pattern] if pattern in ALL else fnmatch.filter(ALL, pattern)
        if images and pattern not in ALL:
            found = [name for name in found if ALL[name].section == IMAGES_OF]
        if not found:
            raise ValueError(f"there is no target {pattern!r}{' for --images' * images}: {did_you_mean(pattern, ALL)}")
        chosen |= {name: ALL[name] for name in found}
    return list(chosen.values())


def run_job(job: Job, flags: argparse.Namespace) -> int:
    """Run a job to its end in a process of its own, and keep its log; the trainer's exit code."""
    run_dir = flags.runs / job.name
    code = finish(job.name, run_dir, [*job.flags, "--export"], place_flags(flags.images or flags.data_dir, flags.gpu))
    if code == 0:
        results.keep(run_dir, flags.folder)
        results.write_page(flags.folder)
    return code


def run(flags: argparse.Namespace) -> int:
    """Run the targets asked for; the exit code, the first that is not 0. Raises ValueError or OSError."""
    if flags.images is not None and flags.data_dir is not None:
        raise ValueError(f"--images {flags.images} says where the images are; leave out --data-dir {flags.data_dir}")
    if not flags.targets:
        raise ValueError("name a target, or list them with --list")
    images = flags.images is not None
    jobs = [Job(target, images, flags.epochs) for target in choose(flags.targets, images)]
    return first_failure(run_job(job, flags) for job in jobs)


def listing() -> str:
    """All targets as a table."""
    rows = ((t.name, t.section, t.published or "", t.epochs, Job(t).command) for t in ALL.values())
    return format_table(("target", "data", "published", "epochs", "command"), rows, ("published", "epochs"))


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="a name, or a pattern such as 'nin*'")
    parser.add_argument("--list", action="store_true", help="show the targets and run nothing")
    parser.add_argument("--epochs", type=int, metavar="N", help="of a shorter budget; default: each recipe's")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the dataset is, as of trainer_exp.py")
    parser.add_argument("--images", type=Path, metavar="DIR", help="CIFAR-10 as DIR/train/<class>/, DIR/test/<class>/")
    parser.add_argument("--gpu", help="as of trainer_exp.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, default=results.READMES, metavar="DIR", help="of page and logs; default: READMEs"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return tool_exit_code("reproduce", parse_flags(argv), listing, run)


if __name__ == "__main__":
    sys.exit(main())
