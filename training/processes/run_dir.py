"""The directory of a run: which one it is, and whether it can be used."""

import datetime
import tempfile
from pathlib import Path

from ..checkpoint import LAST, find_checkpoint
from ..config import TrainConfig
from .restart import remember_run


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
