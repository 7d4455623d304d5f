"""Training of binary and float networks: configuration, data, loop, checkpoints, logs."""

from .config import TrainConfig
from .config.resume import config_from_flags
from .engine import evaluate, fit
from .errors import NonFiniteError, RunStopped
from .evaluation import evaluate_checkpoint, export_best
from .model import ModelInfo, load_model
from .processes.distributed import is_first, joined
from .run import Session, setup

__all__ = [
    "ModelInfo",
    "NonFiniteError",
    "RunStopped",
    "Session",
    "TrainConfig",
    "config_from_flags",
    "evaluate",
    "evaluate_checkpoint",
    "export_best",
    "fit",
    "is_first",
    "joined",
    "load_model",
    "setup",
]
