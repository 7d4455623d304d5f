"""Checkpoints: one file a moment of a run, from which the run continues exactly and a model is rebuilt.

A checkpoint is a dict of tensors and plain Python values, so that ``torch.load(weights_only=True)`` reads it:

``format``         1
``arch, scheme``   what was trained; ``plan`` says which layers are binary (None: a float network)
``model``          the state_dict, of the averaged weights in a run with --ema
``trained``        the state_dict that such a run goes on with, else None
``classes``        their names in the order of the labels; ``input_size`` and ``normalization`` (mean, std)
``config``         the run's configuration
``epoch``          epochs done; ``acc1`` of this one and ``best_acc1`` so far, in percent; in the first of two
                   stages acc1 is that of float weights, and best_acc1 None
``optimizer, scheduler, rng``   what the next epoch needs
``versions``       of torch and xnorkit
"""

import contextlib
import os
import pickle
import random
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
BEST, LAST = "best.pt", "last.pt"


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write ``contents`` so that ``path`` holds either the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def find_checkpoint(path: str | Path, default: str = LAST) -> Path:
    """The file that ``path`` stands for: itself, or ``default`` in a run directory.

    Raises FileNotFoundError where there is none.
    """
    path = Path(path).expanduser()
    file = path / default if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {str(file)!r}; give a .pt file or a run directory with {default}"
        )
    return file


def read_file(path: Path) -> Any:
    """What a ``.pt`` file holds, on the CPU. Raises ValueError for a truncated or foreign file."""
    with path.open("rb") as file:  # a file that may not be read is another matter
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
            raise ValueError(
                f"{str(path)!r} is not a complete checkpoint of plain tensors: it is cut short, or holds other "
                f"objects (a whole model instead of its state_dict); use another one, such as {BEST} of the same run"
            ) from error


def read_checkpoint(path: str | Path, default: str = LAST) -> dict[str, Any]:
    """A checkpoint of this trainer. Raises FileNotFoundError or ValueError, in one sentence."""
    file = find_checkpoint(path, default)
    contents = read_file(file)
    if not isinstance(contents, dict) or "format" not in contents:
        raise ValueError(f"{str(file)!r} holds no run of trainer_exp.py; plain weights go to --pretrained")
    if contents["format"] != FORMAT:
        raise ValueError(f"{str(file)!r} has checkpoint format {contents['format']}; this version reads {FORMAT}")
    return contents


def rng_state() -> dict[str, Any]:
    """The random state of Python and of torch, on every kind of device."""
    state = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng_state(state: dict[str, Any]) -> None:
    """Undo what happened since :func:`rng_state`; devices that this machine has not are left out."""
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
