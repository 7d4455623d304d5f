"""Training of binary and float networks: configuration, data, loop, checkpoints, logs.

What it offers is loaded when it is first asked for: a command line that is mistyped needs no torch to be refused.
"""

import importlib
from typing import Any

_HOME = {
    "ModelInfo": "model",
    "NonFiniteError": "errors",
    "RunStopped": "errors",
    "Session": "run",
    "TrainConfig": "config",
    "config_from_flags": "config.resume",
    "evaluate": "engine",
    "evaluate_checkpoint": "evaluation",
    "export_best": "evaluation",
    "fit": "engine",
    "is_first": "processes.distributed",
    "joined": "processes.distributed",
    "load_model": "model",
    "setup": "run",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
