"""Files of one's own that are run before anything else: they register networks, schemes and layers."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

_imported: set[Path] = set()


def import_files(paths: Iterable[str]) -> None:
    """Run Python files once a process, each with its folder on ``sys.path``, as a script has it.

    Raises ValueError for one that is not there; what the file itself raises goes through.
    """
    for path in paths:
        file = Path(path).resolve()
        if not file.is_file() or file.suffix != ".py":
            raise ValueError(f"--import {path!r} is no Python file; name one that registers what you train")
        if file in _imported:
            continue
        if str(file.parent) not in sys.path:
            sys.path.append(str(file.parent))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None  # of a .py file there is one, with a loader
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(file.stem, module)  # so that what it defines can be pickled
        spec.loader.exec_module(module)
        _imported.add(file)
