"""Checkpoints: one file a moment of a run, from which the run continues exactly and a model is rebuilt.

What a file holds is declared in :mod:`training.contents`, with which it is compared when it is read.

``best.pt`` has what makes the model, and of the state of training (``STATE``) nothing: an optimizer's is twice as
large as the weights. Older versions have written it whole.

A packed file, which tools/convert.py writes, has ``packed`` in the place of ``model``, the state_dict of what
:func:`quantize.convert` made of it, and nothing that only training needs: see :func:`training.evaluation.pack`.
"""

import contextlib
import os
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .contents import problem, required_flags

FORMAT = 1
PACKED = "packed"  # the entry that makes a file a packed one
BEST, LAST = "best.pt", "last.pt"
STATE = ("trained", "optimizer", "scaler", "rng", "partial")  # what only a run that goes on needs

# What torch and zipfile raise for files that are none of theirs, or were one.
_UNREADABLE = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def save_checkpoint(path: Path, contents: dict[str, Any]) -> None:
    """Write ``contents`` so that ``path`` holds either the old file or the whole new one.

    Raises OSError that names ``path``.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        # torch, which closes its archive where a write has failed, hides why behind an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def sync_directory(path: Path) -> None:
    """See to it that a power cut does not undo a renaming in ``path``, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


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
    """What a ``.pt`` file holds, on the CPU. Raises ValueError for a truncated, damaged or foreign file."""
    with path.open("rb") as file:  # a file that may not be read is another matter
        try:
            _check_sums(file)
            return torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise ValueError(
                f"{str(path)!r} is not a complete checkpoint of plain tensors: it is damaged or cut short, or holds "
                f"other objects (a whole model instead of its state_dict); use another one, such as {BEST} of the "
                "same run"
            ) from error


def _check_sums(file: BinaryIO) -> None:
    """Raises BadZipFile where a part of the file has not its check sum, which torch writes and does not read."""
    if zipfile.is_zipfile(file):
        damaged = zipfile.ZipFile(file).testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged!r} is damaged")
    file.seek(0)


def read_checkpoint(path: str | Path, default: str = LAST) -> dict[str, Any]:
    """A checkpoint with weights that training can change. Raises FileNotFoundError or ValueError, in one sentence."""
    contents = read_trained(path, default)
    if PACKED in contents:
        raise ValueError(
            f"{str(path)!r} is packed: it holds bits, which cannot be trained or changed; {give_source(Path(path))}"
        )
    return contents


def read_last(path: str | Path) -> dict[str, Any]:
    """A checkpoint that holds the state of its run. Raises FileNotFoundError or ValueError, in one sentence."""
    contents = read_checkpoint(path)
    if "optimizer" not in contents:
        raise ValueError(
            f"{str(path)!r} holds a trained network without the state of its run; continue from {LAST} of the same "
            "run, or start a new run from these weights with --pretrained"
        )
    missing = [f" has no {name!r}" for name in ("rng", "best_acc1") if name not in contents]
    if "kept" not in contents["optimizer"] and "scheduler" not in contents:  # which older versions have written
        missing.append("['optimizer'] has no 'kept'")
    missing += [f"['config'] has no {name!r}" for name in required_flags() if name not in contents["config"]]
    if missing:
        raise changed(path, missing[0])
    return contents


def give_source(packed: Path) -> str:
    """The end of an error about a packed file: what to give instead of it."""
    best = packed.with_name(BEST)
    return "give the checkpoint that it was made from" + (f", such as {str(best)!r}" if best.is_file() else "")


def read_trained(path: str | Path, default: str = BEST) -> dict[str, Any]:
    """A checkpoint or a packed file. Raises FileNotFoundError or ValueError, in one sentence."""
    file = find_checkpoint(path, default)
    contents = read_file(file)
    if not isinstance(contents, dict) or "format" not in contents:
        raise ValueError(f"{str(file)!r} holds no run of trainer_exp.py; plain weights go to --pretrained")
    if isinstance(contents["format"], int) and contents["format"] != FORMAT:
        raise ValueError(f"{str(file)!r} has checkpoint format {contents['format']}; this version reads {FORMAT}")
    if wrong := problem(contents):
        raise changed(file, wrong)
    return contents


def changed(path: str | Path, wrong: str) -> ValueError:
    """The error about a file whose contents, which are none that this trainer writes, ``wrong`` describes."""
    return ValueError(f"{str(path)!r} is damaged or was changed: its contents{wrong}; use another one of the same run")


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
