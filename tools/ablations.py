"""Change one thing of a training at a time, for the same number of epochs, and write READMEs/ablations.md.

    python tools/ablations.py --list                              the variants, each with what it changes
    python tools/ablations.py --images DIR --teacher he_resnet20:resnet20.th     all of them
    python tools/ablations.py --images DIR --only base whiten     these
    python tools/ablations.py                                     the page again, from the logs that are kept

The pictures are CIFAR-10 as DIR/train/<class>/ and DIR/test/<class>/. Each variant has a directory under --runs.
Started again, the command skips what is finished there and continues what was cut; logs are kept in
READMEs/ablations/runs/.
Exit codes: 0 done, 1 a run had to stop, 2 something that cannot be used, 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantize.words import did_you_mean, format_table
from tools.benchmarking.page.performance_tables import markdown
from tools.command_line import tool_parser
from tools.reproducing.kept_logs import READMES, keep, machine, read_run
from tools.reproducing.running import finish, first_failure, place_flags, tool_exit_code
from tools.reproducing.variant_runs import Variant, list_variants
from tools.reproducing.variants import BASE, BASES, TEACHER
from training.watch.runlog import FILE

LOGS = "ablations"  # folder of the kept logs, beside the page


BASE_LINES = BASE.replace("\n", " \\\n    ")

HEADER = f"""# What pays in a short training

Written by `python tools/ablations.py` from the logs in `READMEs/ablations/runs/`. Every row is a run of

```bash
python trainer_exp.py {BASE_LINES}
```

on CIFAR-10 as pictures (`--data-dir`), with the one change that it names. *last* is the top-1 of the last epoch on the
test set in percent, *difference* that to the mean of the two base rows, which differ in their seed only. A change
*pays* where it gains more than those two lie apart. What needs more epochs than these to pay, the table does not show.
*mirrored* is the top-1 of the mean of the outputs for an image and its mirror image.
"""

COLUMNS = ("variant", "change", "last", "difference", "mirrored", "pays", "date", "machine")
TEXTS = ("variant", "change", "pays", "date", "machine")
WAITING = "## Not run\n\n"


def choose(names: Sequence[str] | None, teacher: str | None) -> list[Variant]:
    """The variants of these names, or all that can be run. Raises ValueError for a name without a variant."""
    variants = list_variants(teacher)
    if names is None:
        return [variant for variant in variants.values() if variant.complete]
    for name in names:
        if name not in variants:
            raise ValueError(f"there is no variant {name!r}: {did_you_mean(name, variants)}")
        if not variants[name].complete:
            raise ValueError(f"variant {name!r} needs --teacher {TEACHER}")
    return [variants[name] for name in dict.fromkeys(names)]


def run_variant(variant: Variant, flags: argparse.Namespace) -> int:
    """Run a variant to its end, and keep its log; the trainer's exit code."""
    run_dir = flags.runs / variant.name
    code = finish(variant.name, run_dir, variant.flags, [*variant.imports, *place_flags(flags.images, flags.gpu)])
    if code == 0:
        keep(run_dir, flags.folder / LOGS)
        write_page(flags.folder)
    return code


def row(variant: Variant, runs: Mapping[str, Any]) -> dict[str, str]:
    """The row of a variant that was run. Raises ValueError where the log under its name is of another run."""
    run = runs[variant.name]
    config = run["run"]["config"]
    variant.check(config)
    result = run["result"]
    cells = {
        "variant": variant.name,
        "change": f"`{variant.change.replace(TEACHER, str(config['teacher']))}`" if variant.change else "",
        "last": f"{result['last_acc1']:.2f}",
        "mirrored": f"{run['epoch']['test']['top1_mirrored']:.2f}",
        "date": run["run"]["environment"]["date"][:10],
        "machine": machine(run["run"]["environment"]),
    }
    bases = [runs[name]["result"]["last_acc1"] for name in BASES if name in runs]
    if bases and variant.name not in BASES:
        difference = result["last_acc1"] - sum(bases) / len(bases)
        cells["difference"] = f"{difference:+.2f}"
        if len(bases) == len(BASES):
            cells["pays"] = "pays" if difference > max(bases) - min(bases) else "does not"
    return cells


def page(runs: Mapping[str, dict[str, Any]]) -> str:
    """The whole page from runs by name. Raises ValueError for a log that is not of the variant whose name it has."""
    variants = list_variants().values()
    rows = [row(variant, runs) for variant in variants if variant.name in runs]
    waiting = [waiting_line(variant) for variant in variants if variant.name not in runs]
    lines = ([cells.get(name, "") for name in COLUMNS] for cells in rows)
    table = markdown(COLUMNS, lines, TEXTS) if rows else ""
    return "\n".join(filter(None, [HEADER, table, WAITING + "".join(waiting) if waiting else ""]))


def waiting_line(variant: Variant) -> str:
    """How to run a variant that was not run."""
    teacher = "" if variant.complete else f" --teacher {TEACHER}"
    change = f": `{variant.change}`" if variant.change else ""
    return f"* `python tools/ablations.py --images DIR{teacher} --only {variant.name}`{change}\n"


def write_page(folder: Path) -> Path:
    """Write ``folder``/ablations.md from all logs that are kept; its path."""
    runs = {path.parent.name: read_run(path.parent) for path in sorted((folder / LOGS / "runs").glob(f"*/{FILE}"))}
    path = folder / "ablations.md"
    path.write_text(page(runs))
    return path


def run(flags: argparse.Namespace) -> int:
    """Run the variants asked for; the exit code, the first that is not 0. Raises ValueError or OSError."""
    variants = choose(flags.only, flags.teacher)
    if flags.images is None:
        if flags.only is not None:
            raise ValueError("--only names variants to run; give their pictures with --images")
        print(f"wrote {write_page(flags.folder)}")
        return 0
    return first_failure(run_variant(variant, flags) for variant in variants)


def listing() -> str:
    """All variants as a table."""
    return format_table(("variant", "change"), ((v.name, v.change) for v in list_variants().values()), ())


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("--list", action="store_true", help="show the variants and run nothing")
    parser.add_argument("--images", type=Path, metavar="DIR", help="CIFAR-10 as DIR/train/<class>/, DIR/test/<class>/")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants; default: all")
    parser.add_argument("--teacher", metavar=TEACHER, help="of the variant 'teacher', which is left out without")
    parser.add_argument("--gpu", help="as of trainer_exp.py")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, default=READMES, metavar="DIR", help="of page and logs; default: READMEs"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    return tool_exit_code("ablations", parse_flags(argv), listing, run)


if __name__ == "__main__":
    sys.exit(main())
