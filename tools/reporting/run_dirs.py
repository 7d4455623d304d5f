"""Runs as a command line names them."""

from collections.abc import Sequence
from pathlib import Path

from quantize.words import did_you_mean


def run_dirs(paths: Sequence[Path]) -> dict[str, Path]:
    """Name -> directory, each once: the directory's own name, or the path as given where two have the same.

    Raises FileNotFoundError, with close names, for a path that is no directory.
    """
    for path in paths:
        if not path.is_dir():
            folders = [p.name for p in path.absolute().parent.glob("*/")]
            raise FileNotFoundError(f"there is no run directory {str(path)!r}: {did_you_mean(path.name, folders)}")
    unique = [path for i, path in enumerate(paths) if path.resolve() not in map(Path.resolve, paths[:i])]
    names = [path.resolve().name for path in unique]
    return {str(path) if names.count(name) > 1 else name: path for name, path in zip(names, unique, strict=True)}


def nothing_in(path: Path, what: str, pattern: str) -> str:
    """The message for a directory that lacks ``what``: it names the directories in it that have a file ``pattern``."""
    inside = sorted(str(file.parent) for file in path.glob(f"*/{pattern}"))
    runs = f"give a run in it: {', '.join(inside[:3])}" if inside else "give the directory of a run of trainer_exp.py"
    return f"{str(path)!r} has no {what} ({pattern}); {runs}"
