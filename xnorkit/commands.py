"""The console scripts: ``xnorkit-train`` is what ``python trainer_exp.py`` is in a clone, the others are of ``tools/``.

The trainer and the tools import each other as ``training`` and ``tools``. A console script lets them: it puts the
folder that they stand in, this one in a wheel, in front of the search path of its own process. Nothing here imports
torch, so that the trainer's ``--help`` and a mistyped flag take no second.
"""

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = HERE if (HERE / "trainer_exp.py").exists() else HERE.parent  # the second in a clone


def train() -> int:
    """``xnorkit-train``: train, evaluate and export a 1-bit network."""
    _find_our_own()
    from training.watch.environment import keep_freed_memory

    keep_freed_memory()
    return _run("trainer_exp")


def evaluate() -> int:
    """``xnorkit-evaluate``: accuracy, latency and size of what ships."""
    return _run("tools.evaluate")


def export() -> int:
    """``xnorkit-export``: write the ONNX file of a checkpoint."""
    return _run("tools.export_onnx")


def convert() -> int:
    """``xnorkit-convert``: write the packed file of a checkpoint."""
    return _run("tools.convert")


def benchmark() -> int:
    """``xnorkit-benchmark``: the kernels against their peers, on this machine."""
    return _run("tools.benchmark")


def _find_our_own() -> None:
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))


def _run(program: str) -> int:
    """The exit code of a program's ``main``; 2, and one sentence, where it needs an extra that is not installed."""
    _find_our_own()
    from training.installed import missing_extra

    try:
        return importlib.import_module(program).main()
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        print(f"{Path(sys.argv[0]).name}: error: {sentence}", file=sys.stderr)
        return 2
