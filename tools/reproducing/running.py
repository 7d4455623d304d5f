"""Runs of trainer_exp.py one after another, each in a directory of its own, where it goes on if it was cut."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tools.command_line import exit_code
from training.checkpoint import LAST
from training.watch.runlog import read_log

TRAINER = Path(__file__).resolve().parents[2] / "trainer_exp.py"
INTERRUPTED = 130


def is_finished(run_dir: Path) -> bool:
    return any(entry["kind"] == "result" for entry in read_log(run_dir))


def place_flags(data_dir: Path | None, gpu: str | None) -> list[str]:
    """Flags of trainer_exp.py for the places that are given."""
    places = {"--data-dir": data_dir, "--gpu": gpu}
    return [word for flag, value in places.items() if value is not None for word in (flag, str(value))]


def finish(name: str, run_dir: Path, flags: Sequence[str], always: Sequence[str]) -> int:
    """Bring a run to its end in a process of its own; the trainer's exit code, 0 where it is finished already.

    Args:
        name: for people.
        run_dir: where it goes.
        flags: of trainer_exp.py that start it; one that was cut has them in its checkpoint.
        always: flags that no checkpoint holds.
    """
    if is_finished(run_dir):
        print(f"{name}: finished already, in {run_dir}", flush=True)
        return 0
    cut = (run_dir / LAST).exists()
    print(f"{name}: {'continues' if cut else 'starts'} in {run_dir}", flush=True)
    start = ["--resume", str(run_dir)] if cut else [*flags, "--log-path", str(run_dir)]
    return subprocess.run([sys.executable, TRAINER, *start, *always]).returncode


def first_failure(codes: Iterable[int]) -> int:
    """Of the exit codes of runs, as they come, the first that is not 0; Ctrl-C in one of them ends all."""
    failure = 0
    for code in codes:
        failure = failure or code
        if code == INTERRUPTED:
            break
    return failure


def tool_exit_code(
    program: str, flags: argparse.Namespace, listing: Callable[[], str], run: Callable[[argparse.Namespace], int]
) -> int:
    """Of a tool that makes runs: shows ``listing()`` with ``--list``, else runs; its exit code, after Ctrl-C too."""
    if flags.list:
        print(listing())
        return 0
    try:
        return exit_code(program, lambda: run(flags))
    except KeyboardInterrupt:
        return INTERRUPTED
