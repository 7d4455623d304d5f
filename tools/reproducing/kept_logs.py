"""Finished runs' logs as the project keeps them: without places of the machine that trained."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.watch.runlog import FILE, read_log

READMES = Path(__file__).resolve().parents[2] / "READMEs"

# What a log knows of places on the machine of its run: flags, which all take a value, and fields.
PLACE_FLAGS = ("--data-dir", "--log-path", "--resume")
PLACES = ("data_dir", "log_path", "resume", "export", "evaluate", "checkpoint")

# An absolute path, or what has one at its end: a flag with "=", ARCH:CHECKPOINT.
ABSOLUTE = re.compile(r"(|.*?[=:])(/.+)", re.DOTALL)


def without_places(entry: Any) -> Any:
    """A log's entry, or a part of one, with places as None, and of other absolute paths the last name alone."""
    if isinstance(entry, list):
        return [without_places(part) for part in entry]
    if isinstance(entry, dict):
        plain = {key: None if key in PLACES else without_places(value) for key, value in entry.items()}
        return plain | ({"command": without_place_flags(entry["command"])} if "command" in entry else {})
    path = ABSOLUTE.fullmatch(entry) if isinstance(entry, str) else None
    return entry if path is None else path[1] + Path(path[2]).name


def without_place_flags(command: str) -> str:
    """A command line without the flags that name places, as "--flag value" or "--flag=value"."""
    words = shlex.split(command)
    dropped = {i + k for i, word in enumerate(words) if word in PLACE_FLAGS for k in (0, 1)}
    dropped |= {i for i, word in enumerate(words) if word.startswith(tuple(f"{flag}=" for flag in PLACE_FLAGS))}
    return shlex.join(without_places([word for i, word in enumerate(words) if i not in dropped]))


def read_run(log_dir: Path) -> dict[str, Any]:
    """A finished run: the last entry of each kind, its "name", and the "command" that started it.

    Raises ValueError for a log without a result.
    """
    log = [without_places(entry) for entry in read_log(log_dir)]
    entries = {entry["kind"]: entry for entry in log}
    if "result" not in entries:
        raise ValueError(f"the run in {str(log_dir)!r} is not finished; continue it with trainer_exp.py --resume")
    command = next(entry["environment"]["command"] for entry in log if entry["kind"] == "run")
    return {**entries, "name": log_dir.resolve().name, "command": command}


def keep(run_dir: Path, folder: Path = READMES, name: str | None = None) -> None:
    """Copy a finished run's log, without places, to ``folder``/runs/``name``. Raises ValueError without a result."""
    target = folder / "runs" / (name or read_run(run_dir)["name"])
    lines = [json.dumps(without_places(entry)) + "\n" for entry in read_log(run_dir)]
    target.mkdir(parents=True, exist_ok=True)
    (target / FILE).write_text("".join(lines))


def machine(environment: Mapping[str, Any]) -> str:
    """What computed, and the versions."""
    threads = environment["threads"]
    cpu = f"{environment['cpu']}, {threads} thread{'' if threads == 1 else 's'}"
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("xnorkit", "torch"))
    return f"{cpu if environment['device'] == 'cpu' else environment['device']}; {versions}"
