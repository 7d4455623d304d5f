"""A run that torchrun starts again, after one of its processes has died: it goes on in its own directory.

torchrun itself keeps a store that outlives the processes it starts. The first of them writes there which directory
the run has; started again, all find it there, and go on from its last checkpoint.
"""

from pathlib import Path
from typing import Any

from ..checkpoint import LAST
from .distributed import on_first
from .torchrun import read, torchrun_store

RUN_DIR = "run_dir"


def remember_run(run_dir: Path) -> None:
    """Tell torchrun, where it has started this process, which directory the run has."""
    store = torchrun_store()
    if store is not None:
        store.set(RUN_DIR, str(run_dir.absolute()))


def continued(flags: dict[str, Any]) -> dict[str, Any]:
    """``flags``, with what lets a run that torchrun has started again go on: its directory, and its last checkpoint."""
    run_dir, has_checkpoint = on_first(_remembered_run)
    if run_dir is None:
        return flags
    return {**flags, "log_path": run_dir, **({"resume": f"{run_dir}/{LAST}"} if has_checkpoint else {})}


def is_restart() -> bool:
    """Whether torchrun has started this run again."""
    return on_first(_remembered_run)[0] is not None


def _remembered_run() -> tuple[str | None, bool]:
    store = torchrun_store()
    run_dir = None if store is None else read(store, RUN_DIR)
    return run_dir, run_dir is not None and (Path(run_dir) / LAST).is_file()
