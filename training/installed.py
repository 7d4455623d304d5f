"""What differs between a clone and an installed wheel: how programs are called, and which packages may be missing."""

import re
from pathlib import Path

IN_CLONE = (Path(__file__).resolve().parents[1] / "setup.cfg").exists()

TRAINER = "trainer_exp.py"
CONSOLE_SCRIPTS = {
    TRAINER: "xnorkit-train",
    "tools/evaluate.py": "xnorkit-evaluate",
    "tools/export_onnx.py": "xnorkit-export",
    "tools/convert.py": "xnorkit-convert",
    "tools/benchmark.py": "xnorkit-benchmark",
}
_PROGRAM = re.compile(r"(?:\bpython )?(?<![\w/])(trainer_exp\.py|tools/\w+(?:\.py)?)(?![\w/])")
_TORCHRUN = re.compile(r"(torchrun (?:[^\n]|(?<=\\)\n)*?)\btrainer_exp\.py")  # over lines that end in a backslash

# What the extras of setup.cfg bring: name to import -> name to install, extra.
_EXTRAS = {
    "PIL": ("pillow", "train"),
    "matplotlib": ("matplotlib", "train"),
    "sklearn": ("scikit-learn", "train"),
    "tensorboard": ("tensorboard", "train"),
    "timm": ("timm", "train"),
    "torchvision": ("torchvision", "train"),
    "tqdm": ("tqdm", "train"),
    "cv2": ("opencv-python-headless", "video"),
    "scipy": ("scipy", "video"),
    "openvino": ("openvino", "bench"),
}


def as_called(text: str, in_clone: bool = IN_CLONE) -> str:
    """``text`` with each program as one calls it: ``python tools/convert.py`` of a clone is ``xnorkit-convert``.

    A tool without a console script runs as a module, ``python -m xnorkit.tools.report``.
    """
    if in_clone:
        return text
    text = _TORCHRUN.sub(rf"\1--no-python {CONSOLE_SCRIPTS[TRAINER]}", text)
    return _PROGRAM.sub(lambda found: _installed_name(found[1]), text)


def _installed_name(program: str) -> str:
    module = program.removesuffix(".py").replace("/", ".")
    return CONSOLE_SCRIPTS.get(program) or f"python -m xnorkit.{module}"


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """A sentence with what to install, where a package of an extra is missing; None where it is none of theirs."""
    found = _EXTRAS.get((error.name or "").partition(".")[0])
    if found is None:
        return None
    package, extra = found
    return f"this needs {package}, which is not installed: pip install 'xnorkit[{extra}]'"
