"""Runs the tests of a module against a mutant of it, in a forked process that imports the mutant in its place."""

import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

MEMORY = 8 * 2**30  # bytes; a number that is another may ask for any amount
# What the tests import beside the project: imported once, here, it need not be for each mutant.
_LIBRARIES = (
    *("hypothesis", "numpy", "onnx", "onnxruntime", "onnxscript", "pytest", "ptflops", "sklearn.datasets"),
    *("timm", "torch", "torch.onnx", "torchvision", "torchvision.transforms.v2", "torchvision.datasets"),
)

KILLED, SURVIVED, ENDLESS = "killed", "survived", "endless"


def warm_up() -> None:
    """Import what all tests need, so that the processes forked from this one need not."""
    warnings.simplefilter("ignore")
    for library in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds the module ``name`` with another source."""

    def __init__(self, name: str, path: Path, source: str):
        self.name, self.path, self.source = name, path, source

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        is_package = self.path.name == "__init__.py"
        places = [str(self.path.parent)] if is_package else None
        return importlib.util.spec_from_file_location(
            fullname, self.path, loader=self, submodule_search_locations=places
        )

    def get_filename(self, fullname: str) -> str:
        return str(self.path)

    def get_data(self, path: str) -> bytes:
        return self.source.encode()

    def path_stats(self, path: str):
        raise OSError("it is compiled anew: the file's compiled form is of another source")


def module_name(module: str) -> str:
    """The name under which the file ``module`` is imported."""
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def run(root: Path, module: str, source: str, tests: Sequence[str], seconds: int, log: Path) -> tuple[str, float]:
    """(what became of ``module`` with this source, seconds of processor time): "killed" where a test failed.

    Args:
        root: of the repository; a path in it are ``module`` and each of ``tests``.
        seconds: of processor time, after which it is "endless"; of real time five times as many.
        log: gets what pytest writes.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if not child:
        code = 70  # neither of pytest's
        try:
            code = _test(root, module, source, tests, seconds, log)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if ended in (signal.SIGXCPU, signal.SIGALRM):
        return ENDLESS, spent
    return SURVIVED if status == 0 else KILLED, spent


def _test(root: Path, module: str, source: str, tests: Sequence[str], seconds: int, log: Path) -> int:
    """pytest's exit code, in a process of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    signal.alarm(5 * seconds)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(root)
    sys.path[:0] = [str(root), str(root / "tests")]
    sys.meta_path.insert(0, _Mutated(module_name(module), root / module, source))
    import pytest

    print(time.strftime("%H:%M:%S"), module, flush=True)
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
