"""Write READMEs/results.md from the logs of finished runs.

    python tools/results.py                        from the logs kept in READMEs/runs/
    python tools/results.py --add runs/NAME ...    keep the logs of these runs there first

Each figure of ours comes from a run's log.jsonl: nothing is typed in by hand. After the targets of
tools/reproduce.py come other runs, and the targets that were not run.
"""

import argparse
import datetime
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.benchmarking.page.performance_tables import markdown
from tools.command_line import exit_code, tool_parser
from tools.reproducing.jobs import ALL, Job, Target
from tools.reproducing.kept_logs import READMES, keep, machine, read_run
from tools.reproducing.targets import IMAGES, IMAGES_OF, SECTIONS
from training.watch.runlog import FILE

HEADER = """# Results

Written by `python tools/results.py` from the logs in `READMEs/runs/`. `python tools/reproduce.py NAME` runs a row;
so does its command, with `--data-dir` for the place of the data. Recipes are files in `training/recipes/`.

Accuracy is top-1 on the test set in percent: *published*, *ours* (the best epoch), *last* (the last epoch), *float*
(our float network to compare with, after as many epochs; its own row says how it was trained). *epochs* "20 of 200"
is a shorter budget than the row's; names that end in "short" are of a few epochs on a processor, which show that a
network learns and what it costs, not how far it gets. Time is training and testing of all epochs. MACs are those of
one image. *packed bytes* are those of the parameters, 1 bit a binary weight. `python tools/report.py READMEs/runs/*`
makes a page of the same logs, with curves and peaks of memory.
"""

COLUMNS = (
    "name", "data", "published", "ours", "last", "float", "epochs", "time", "parameters", "float MACs", "binary MACs",
    "packed bytes", "date", "machine", "command",
)  # fmt: skip
TEXTS = ("name", "data", "date", "machine", "command")
WAITING = "Not run"
WAITING_NOTE = f"""Rows that nobody has trained yet, each by its command. Those of {IMAGES_OF} run on a tree of
pictures too, with `--images DIR`; their rows say "{IMAGES}".
"""
NOT_RUN = WAITING.lower()


def kept_job(target: Target, images: bool, runs: Mapping[str, Any]) -> Job:
    """The longest run of a target that is kept, else the whole target."""
    whole = Job(target, images)
    lengths = (re.fullmatch(rf"{re.escape(whole.name)}_(\d+)epochs", name) for name in runs)
    jobs = [Job(target, images, int(match[1])) for match in lengths if match]
    return max(jobs, key=lambda job: job.epochs) if jobs and whole.name not in runs else whole


def figures(run: dict[str, Any]) -> dict[str, str]:
    """The cells of a row that come from the log."""
    config, cost, environment = (run["run"][key] for key in ("config", "cost", "environment"))
    result = run["result"]
    return {
        "ours": f"{result['best_acc1']:.2f}",
        "last": f"{result['last_acc1']:.2f}",
        "epochs": str(config["epochs"]),
        "time": str(datetime.timedelta(seconds=round(result["seconds"]))),
        "parameters": f"{cost['parameters']:,}",
        "float MACs": f"{cost['macs'] / 1e6:.2f} M",
        "binary MACs": f"{cost['binary_macs'] / 1e6:.2f} M",
        "packed bytes": f"{cost['packed_bytes']:,}",
        "date": environment["date"][:10],
        "machine": machine(environment),
        "command": f"`{run['command']}`",
    }


def target_row(job: Job, runs: Mapping[str, Any]) -> dict[str, str]:
    """The row of a target that was run. Raises ValueError where the log under its name is of another run."""
    target, run = job.target, runs[job.name]
    job.check(run["run"]["config"])
    row = {"name": job.name, "data": job.data} | figures(run) | {"command": f"`{job.command}`"}
    if job.epochs:
        row["epochs"] += f" of {target.epochs}"
    if target.published:
        row["published"] = target.published
    if target.float_twin:
        twin = Job(ALL[target.float_twin], job.images, job.epochs).name
        row["float"] = figures(runs[twin])["ours"] if twin in runs else NOT_RUN
    return row


def waiting_line(target: Target) -> str:
    """How to run a target that was not run, and what is known of it."""
    published = f", published {target.published}" if target.published else ""
    return f"* `python tools/reproduce.py {target.name}`: {target.section}, {target.epochs} epochs{published}\n"


def table(rows: Iterable[Mapping[str, str]]) -> str:
    """GitHub's kind of table; figures are aligned to the right."""
    return markdown(COLUMNS, ([row.get(name, "") for name in COLUMNS] for row in rows), TEXTS)


def page(runs: Mapping[str, dict[str, Any]]) -> str:
    """The whole page from runs by name. Raises ValueError for a log that is not of the target whose name it has."""
    parts, shown, waiting = [HEADER], set(), []
    for section in SECTIONS:
        rows = []
        for target in (target for target in ALL.values() if target.section == section):
            jobs = [kept_job(target, images, runs) for images in ((False, True) if section == IMAGES_OF else (False,))]
            found = [target_row(job, runs) for job in jobs if job.name in runs]
            waiting += [] if found else [waiting_line(target)]
            rows += found
        shown |= {row["name"] for row in rows}
        parts += [f"## {section}\n", table(rows)] if rows else []
    others = [
        {"name": name, "data": run["run"]["config"]["dataset"]} | figures(run)
        for name, run in sorted(runs.items())
        if name not in shown
    ]
    parts += ["## Other runs\n", table(others)] if others else []
    parts += [f"## {WAITING}\n", WAITING_NOTE, "".join(waiting)] if waiting else []
    return "\n".join(parts)


def write_page(folder: Path = READMES) -> Path:
    """Write ``folder``/results.md from all logs under ``folder``/runs; its path."""
    runs = {path.parent.name: read_run(path.parent) for path in sorted((folder / "runs").glob(f"*/{FILE}"))}
    path = folder / "results.md"
    path.write_text(page(runs))
    return path


def run(flags: argparse.Namespace) -> None:
    """Keep the logs named, and write the page. Raises ValueError or OSError, in one sentence."""
    for run_dir in flags.add:
        keep(run_dir, flags.folder)
    print(f"wrote {write_page(flags.folder)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="RUN", help="run directories to keep")
    parser.add_argument("--folder", type=Path, default=READMES, metavar="DIR", help="of page and logs: READMEs")
    return exit_code("results", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
