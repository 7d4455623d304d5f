"""The directory of a run: which one it is, whether it can be used, and how a run that torchrun starts again finds it.

torchrun itself keeps a store that outlives the processes it starts. The first of them writes there which directory
the run has; started again, after one of them has died, all find it there, and go on from its last checkpoint.
"""

import datetime
import tempfile
from pathlib import Path
from typing import Any

from ..checkpoint import LAST, find_checkpoint
from ..config import TrainConfig
from .distributed import on_first, read, torchrun_store


def usable_run_dir(config: TrainConfig) -> Path:
    """Where the run of ``config`` goes. Raises ValueError or OSError, in one sentence, where it cannot go there."""
    path = choose_run_dir(config)
    check_paths(config, path)
    return path


def check_paths(config: TrainConfig, run_dir: Path) -> None:
    """Raises ValueError or FileNotFoundError where the run would overwrite another, or has nowhere to export to."""
    if config.resume is None and (run_dir / LAST).exists():
        path = str(run_dir)
        raise ValueError(f"{path!r} holds a run already; continue it with --resume, or choose another --log-path")
    if not config.export:
        return
    file = Path(config.export).expanduser().absolute()
    if file.is_dir():
        raise IsADirectoryError(f"--export {config.export!r} is a directory; name a file, such as {file / 'net.onnx'}")
    if file.parent != run_dir.absolute() and not file.parent.is_dir():
        folder = str(file.parent)
        raise FileNotFoundError(f"--export {config.export!r}: there is no directory {folder!r}; make it first")


def make_run_dir(path: Path) -> None:
    """Make ``path`` a directory that files can be written to, which torchrun remembers.

    Raises OSError, in one sentence, where that cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"{str(path)!r} cannot be made a run directory ({error.strerror}); choose another --log-path"
        ) from error
    remember_run(path)


def choose_run_dir(config: TrainConfig) -> Path:
    """--log-path, else where the resumed checkpoint lies, else a new name under runs/."""
    if config.log_path is not None:
        return Path(config.log_path).expanduser()
    if config.resume is not None:
        return find_checkpoint(config.resume).parent
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return Path("runs") / f"{config.arch.replace('/', '_')}-{config.dataset}-{time}"


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
