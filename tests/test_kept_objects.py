"""The compiler that keeps objects: it compiles again what has changed, and nothing else."""

import platform
import subprocess
import sys

import kept_objects
import pytest

COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo 1 && exit
echo "$*" >> calls
while [ "$1" != -c ]; do shift; done
grep -q wrong "$2" && exit 3
cat "$2" part.h > "$4"
"""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """compiled(source, flag): (exit code, how often the real compiler was called so far)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").write_text(COMPILER)
    (tmp_path / "real").chmod(0o755)
    (tmp_path / "part.h").write_text("header")

    def run(source: str, flag: str = "-O3") -> tuple[int, int]:
        code = kept_objects.main(tmp_path / "kept", ["./real", flag, "-I.", "-c", source, "-o", source + ".made"])
        return code, len((tmp_path / "calls").read_text().splitlines())

    return run


def test_only_what_has_changed_is_compiled_again(compiled, tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert [compiled("a"), compiled("b"), compiled("a"), compiled("b")] == [(0, 1), (0, 2), (0, 2), (0, 2)]
    (tmp_path / "a.made").unlink()
    assert compiled("a") == (0, 2)
    assert (tmp_path / "a.made").read_text() == "aheader"
    (tmp_path / "a").write_text("new ")
    assert [compiled("a"), compiled("b")] == [(0, 3), (0, 3)]
    (tmp_path / "part.h").write_text("text")
    assert [compiled("a"), compiled("b"), compiled("a")] == [(0, 4), (0, 5), (0, 5)]
    assert (tmp_path / "a.made").read_text() == "new text"
    assert [compiled("a", "-O2"), compiled("a", "-O2")] == [(0, 6), (0, 6)]
    (tmp_path / "real").write_text(COMPILER.replace("echo 1", "echo 2"))
    assert [compiled("a", "-O2"), compiled("b")] == [(0, 7), (0, 8)]
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_failure_is_the_compilers_and_nothing_is_kept(compiled, tmp_path):
    (tmp_path / "a").write_text("wrong")
    assert [compiled("a"), compiled("a")] == [(3, 1), (3, 2)]
    assert not (tmp_path / "kept").exists()


def test_the_program_passes_its_arguments_to_the_compiler(tmp_path):
    program = kept_objects.compiler(tmp_path, sys.executable)
    said = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stdout
    assert said == f"Python {platform.python_version()}\n"
