"""Which package may import which, and what `import quantize` loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).resolve().parent.parent

# package: those of ours that it must not import
FORBIDDEN = {
    "quantize": {"models", "training", "tools", "xnorkit"},
    "models": {"quantize", "training", "tools", "xnorkit"},
    "training": {"tools", "xnorkit"},
    "tools": {"xnorkit"},
    "xnorkit": {"quantize", "models"},
}

# What arrows point to inside quantize, room by room: a package or a file -> those of quantize that it may import.
WORDS, CALLING, VERSION = {"words"}, {"calling"}, {"version"}
BITS = {"packing", "kernels"}
SCHEME = {"scheme", "ste", "kept_bits", "schemes"}
ROOMS_OF_QUANTIZE = {
    "words": set(),
    "sharded": set(),
    "calling": {"sharded"},
    "version": set(),
    "packing": set(),
    "kernels": {"packing"},
    "ste": {"kept_bits"},
    "kept_bits": {"kernels"},
    "scheme": {"words", "ste"},
    "schemes": SCHEME,
    "binary": SCHEME | BITS | {"sharded"},
    "optim": {"binary"} | CALLING,
    "health": {"binary", "ste"} | CALLING,
    "integrations": {"binary", "health", "optim"},
    "packed": {"binary", "scheme", "ste", "kept_bits"} | BITS | CALLING | WORDS,
    "planning": {"binary", "scheme", "packed", "sharded"} | CALLING | WORDS,
    "mixed_precision": {"binary", "planning", "prepare", "packed", "scheme", "optim", "complexity"} | CALLING | WORDS,
    "prepare": {"binary", "planning", "scheme", "packed"} | CALLING,
    "compact": {"binary", "packing", "ste"},
    "complexity": {"binary", "packed", "packing"} | CALLING | WORDS,
    "replay": {"packed", "kernels", "kept_bits"} | CALLING,
    "export": {"binary", "packed", "scheme", "schemes"} | BITS | CALLING | WORDS | VERSION,
}

HEAVY = (
    *("timm", "torchvision", "onnx", "onnxscript", "onnxruntime", "tensorboard", "ptflops", "sklearn"),
    *("matplotlib", "scipy", "PIL", "cv2", "lightning", "transformers", "accelerate"),
)


def imported(path: Path) -> set[str]:
    """The absolute names of all modules that a file imports, inside functions too."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_what_it_must_not(package):
    assert files(package)
    for path in set(files(package)) - {ROOT / "models" / "zoo.py"}:  # which builds binary networks
        wrong = {name for name in imported(path) if name.split(".")[0] in FORBIDDEN[package]}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_nothing_imports_tools():
    for path in [*ROOT.glob("*.py"), *(f for package in ("quantize", "models", "training") for f in files(package))]:
        assert not {name for name in imported(path) if name.split(".")[0] == "tools"}, path


def room(path: Path) -> str:
    """The package or file of quantize that a file belongs to."""
    return path.relative_to(ROOT / "quantize").with_suffix("").parts[0]


def test_every_room_of_quantize_has_a_rule():
    assert {room(path) for path in files("quantize")} - {"__init__"} == set(ROOMS_OF_QUANTIZE)


@pytest.mark.parametrize("name", ROOMS_OF_QUANTIZE)
def test_arrows_between_the_rooms_of_quantize_point_one_way(name):
    for path in files("quantize"):
        if room(path) == name:
            modules = {module.split(".")[1] for module in imported(path) if module.startswith("quantize.")}
            wrong = modules & set(ROOMS_OF_QUANTIZE) - ROOMS_OF_QUANTIZE[name] - {name}
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_relative_imports_stay_inside_their_package():
    for package in FORBIDDEN:
        for path in files(package):
            depth = len(path.relative_to(ROOT).parts) - 1
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    assert node.level <= depth, path


@pytest.mark.parametrize(("package", "other"), [("quantize", "models"), ("models", "quantize")])
def test_an_import_loads_no_heavy_package_and_not_the_other(package, other):
    code = f"import {package}, sys; print(*sys.modules, sep=chr(10))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert {"torch", package} <= loaded
    assert not loaded & {*HEAVY, other, "training"}
