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
    "quantize": {"models", "training", "tools"},
    "models": {"quantize", "training", "tools"},
    "training": {"tools"},
}

# module of quantize: the modules of quantize that it may import
LAYERS_OF_QUANTIZE = {
    "ste": {"kept_bits"},
    "kept_bits": {"kernels"},
    "scheme": {"ste"},
    "table": set(),
}

HEAVY = ("timm", "torchvision", "onnx", "onnxscript", "onnxruntime", "tensorboard", "ptflops", "sklearn")


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
    for path in files(package):
        wrong = {name for name in imported(path) if name.split(".")[0] in FORBIDDEN[package]}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_nothing_imports_tools():
    for path in [*ROOT.glob("*.py"), *(f for package in ("quantize", "models", "training") for f in files(package))]:
        assert not {name for name in imported(path) if name.split(".")[0] == "tools"}, path


@pytest.mark.parametrize("module", LAYERS_OF_QUANTIZE)
def test_the_base_of_quantize_imports_nothing_above_it(module):
    found = {name.split(".")[1] for name in imported(ROOT / f"quantize/{module}.py") if name.startswith("quantize.")}
    assert found <= LAYERS_OF_QUANTIZE[module]


@pytest.mark.parametrize("path", files("quantize/schemes"), ids=lambda p: p.stem)
def test_schemes_import_the_base_and_each_other(path):
    found = {name.split(".")[1] for name in imported(path) if name.startswith("quantize.")}
    assert found <= {"ste", "kept_bits", "scheme", "schemes"}


@pytest.mark.parametrize("module", ["binary_layer", "layers"])
def test_layers_import_no_conversion(module):
    found = {name.split(".")[1] for name in imported(ROOT / f"quantize/{module}.py") if name.startswith("quantize.")}
    assert not found & {"plan", "prepare", "observe", "convert", "packed", "export", "complexity"}


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
