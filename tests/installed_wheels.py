"""The sdist and the wheels of this tree, and environments that hold a wheel and exactly what it asks for."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from kept_objects import compiler
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("quantize", "models", "training", "tools", "xnorkit")
FILES = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "trainer_exp.py")


def build_sdist(folder: Path) -> Path:
    """The unpacked sdist of a copy of this tree, in ``folder``."""
    copy = folder / "copy"
    for name in FOLDERS:
        unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.dylib", "*.dll")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    code = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    name = run([sys.executable, "-c", code, folder], cwd=copy).split()[-1]
    shutil.unpack_archive(folder / name, folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


def build_wheel(source: Path, folder: Path, **environment: str) -> Path:
    """The wheel of an unpacked sdist, in ``folder``; nothing is downloaded, and no source compiled that has been."""
    copy = shutil.copytree(source, folder / source.name)  # a build takes what an earlier one has left
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder]
    run([*command, copy], **{"CXX": str(compiler(folder, os.environ.get("CXX", "c++"))), **environment})
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path, extras: str = "") -> Path:
    """A virtual environment with the wheel and links to what it and its ``extras`` require, no more; its programs."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib*/python*/site-packages"))
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    run(install)
    (own,) = metadata.distributions(name="xnorkit", path=[str(site)])
    for name in _required(own.requires, extras.split(",")):
        _link(metadata.distribution(name), site)
    return python.parent


def _required(requirements: Iterable[str] | None, extras: Iterable[str], known: set[str] | None = None) -> set[str]:
    """The distributions that the requirements come to, theirs included."""
    known = set() if known is None else known
    for requirement in map(Requirement, requirements or ()):
        wanted = [extra for extra in extras if not requirement.marker or requirement.marker.evaluate({"extra": extra})]
        name = canonicalize_name(requirement.name)
        key = f"{name}{sorted(requirement.extras)}"
        if wanted and key not in known:
            known.add(key)
            _required(metadata.distribution(name).requires, ("", *requirement.extras), known)
    return {key.partition("[")[0] for key in known}


def _link(distribution: metadata.Distribution, site: Path) -> None:
    for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(distribution.locate_file(top)).resolve())


def run(command: Iterable[object], cwd: Path | None = None, code: int = 0, **environment: str) -> str:
    """What a command prints, errors included; it must end with exit code ``code``."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    found = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**clean, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert found.returncode == code, found.stdout
    return found.stdout
