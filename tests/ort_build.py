"""What tests that compile against onnxruntime need: a compiler, its public headers, its shared object."""

import os
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "quantize" / "csrc"


def compiler() -> str:
    """g++ or another; the test is skipped where there is none."""
    found = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    return found or pytest.skip("no C++ compiler")


def headers() -> Path:
    """The directory of onnxruntime's public headers; the test is skipped where they are not found."""
    candidates = [os.environ.get("ONNXRUNTIME_INCLUDE"), ROOT / "build/onnxruntime/include", *_packaged()]
    for directory in filter(None, candidates):
        if (Path(directory) / "onnxruntime_cxx_api.h").is_file():
            return Path(directory)
    return pytest.skip("no headers of onnxruntime: set ONNXRUNTIME_INCLUDE to their directory")


def _packaged() -> list[Path]:
    flags = ""
    if shutil.which("pkg-config"):
        command = ["pkg-config", "--cflags-only-I", "libonnxruntime"]
        flags = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [Path(flag.removeprefix("-I")) for flag in flags.split()] + [Path("/usr/include/onnxruntime")]


def shared_object() -> Path:
    """onnxruntime's own library, in the installed wheel; the test is skipped where that has none."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    return found[0] if found else pytest.skip("the installed onnxruntime has no libonnxruntime.so")


def build(*arguments: str | Path) -> None:
    """Runs the compiler; what it says is the test's failure."""
    command = [compiler(), "-std=c++17", "-Wall", "-Wextra", f"-I{CSRC}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
