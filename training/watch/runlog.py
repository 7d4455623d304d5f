"""The machine-readable log of a run: ``log.jsonl``, one JSON object a line.

``{"kind": "run", ...}``     once a start: config, environment (command, machine, versions), cost, processes,
                            effective_batch (images between two updates of the weights, of all processes)
``{"kind": "epoch", ...}``   once an epoch: epoch, lr, train and test (loss, top1, images, seconds, load_seconds),
                            top1_mirrored (of the test, with --flip-test),
                            float_weights (in the first of two stages), unchanged (binary layers none of whose
                            weights has changed its sign so far), peak_memory (host and device, bytes, so far),
                            skipped (pictures that could not be read, where there are new ones)
``{"kind": "result", ...}``  at the end: best_acc1, best_epoch, last_acc1, seconds of all epochs, checkpoint
``{"kind": "export", ...}``  with --export: bytes of the ONNX file
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

FILE = "log.jsonl"


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The entries of a run's log, oldest first; none where there is no log. One that a cut has left half is not one."""
    path = Path(run_dir) / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append(run_dir: Path, kind: str, **fields: Any) -> None:
    """Add an entry to a run's log, all of it or nothing. Raises OSError."""
    path = Path(run_dir) / FILE
    line = json.dumps({"kind": kind, **fields}) + "\n"
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(line)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, size)
        raise OSError(error.errno, error.strerror, str(path)) from error


class RunLog:
    """Appends to a log whose entries of later epochs, if it has any, are dropped first: they are trained again."""

    def __init__(self, run_dir: Path, epochs_done: int):
        self.path = run_dir / FILE
        kept = [e for e in read_log(run_dir) if e["kind"] == "run" or e.get("epoch", epochs_done + 1) <= epochs_done]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        os.replace(temporary, self.path)

    def write(self, kind: str, **fields: Any) -> None:
        append(self.path.parent, kind, **fields)
