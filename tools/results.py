"""Write READMEs/results.md from the logs of finished runs.

    python tools/results.py                        from the logs kept in READMEs/runs/
    python tools/results.py --add runs/NAME ...    keep the logs of these runs there first

Each row of the tables comes from one run's log.jsonl: nothing is typed in by hand.
"""

import argparse
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training.runlog import read_log  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "READMEs" / "runs"
PAGE = ROOT / "READMEs" / "results.md"

HEADER = """# Results

Written by `python tools/results.py` from the logs in `READMEs/runs/`, one row a run. Accuracy is top-1 on
the test set, of the best epoch and of the last one. Time is training and testing, all epochs.
"""

COLUMNS = ("network", "scheme", "best", "last", "epochs", "time", "parameters", "MACs", "binary MACs", "packed bytes")


def read_run(log_dir: Path) -> dict[str, Any]:
    """The facts of one finished run, by kind: ``run``, ``result`` and the number of epochs.

    Raises ValueError for a log without a result.
    """
    entries = {entry["kind"]: entry for entry in read_log(log_dir)}
    if "result" not in entries:
        raise ValueError(f"the run in {str(log_dir)!r} is not finished; continue it with trainer_exp.py --resume")
    return {**entries, "name": log_dir.name}


def keep(run_dir: Path) -> None:
    """Copy a finished run's log to where the page is made from."""
    read_run(run_dir)
    target = KEPT / run_dir.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run_dir / "log.jsonl", target / "log.jsonl")


def row(run: dict[str, Any]) -> tuple[str, ...]:
    config, cost, result = run["run"]["config"], run["run"]["cost"], run["result"]
    minutes = result["seconds"] / 60
    return (
        config["arch"],
        run["run"]["scheme"] or "float",
        f"{result['best_acc1']:.2f}%",
        f"{result['last_acc1']:.2f}%",
        str(config["epochs"]),
        f"{minutes:.0f} min",
        f"{cost['parameters']:,}",
        f"{cost['macs'] / 1e6:.2f} M",
        f"{cost['binary_macs'] / 1e6:.2f} M",
        f"{cost['packed_bytes']:,}",
    )


def command(run: dict[str, Any]) -> str:
    """The run's command line without the places of its files, which are the machine's own."""
    words = run["run"]["environment"]["command"].split()
    places = {i + k for i, word in enumerate(words) if word in ("--data-dir", "--log-path") for k in (0, 1)}
    return " ".join(word for i, word in enumerate(words) if i not in places)


def section(dataset: str, runs: list[dict[str, Any]]) -> str:
    rows = sorted((row(run) for run in runs), key=lambda r: (r[0], r[1] != "float", r[1]))
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows))
    details = "\n".join(f"* `{command(run)}`, {machine(run)}" for run in runs)
    return f"## {dataset}\n\n{table}\n\n{details}\n"


def machine(run: dict[str, Any]) -> str:
    env = run["run"]["environment"]
    versions = ", ".join(f"{name} {env['versions'][name]}" for name in ("xnorkit", "torch", "python"))
    return f"{env['date'][:10]}, {env['device']} ({env['cpu']}, {env['threads']} threads), {versions}"


def write_page(kept: Path = KEPT, page: Path = PAGE) -> None:
    """Write the page from all logs under ``kept``. Raises ValueError where there is none."""
    runs = [read_run(path.parent) for path in sorted(kept.glob("*/log.jsonl"))]
    if not runs:
        raise ValueError(f"no logs in {str(kept)!r}; add finished runs with --add runs/NAME")
    datasets = defaultdict(list)
    for run in runs:
        datasets[run["run"]["config"]["dataset"]].append(run)
    page.write_text("\n".join([HEADER, *(section(name, datasets[name]) for name in sorted(datasets))]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs="+", type=Path, default=[], metavar="RUN", help="run directories to keep")
    try:
        for run_dir in parser.parse_args().add:
            keep(run_dir)
        write_page()
    except (ValueError, OSError) as error:
        print(f"tools/results.py: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
