"""Mutation testing (`make mutation`): what it would see, and that mutants are the same everywhere."""

from pathlib import Path

import pytest
from mutation.driver import ENDLESS, KILLED, SURVIVED, module_name, run
from mutation.equivalent import EQUIVALENT
from mutation.nearest_tests import NEAREST, nearest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "def larger(a, b):\n    return a > b\n"
TESTS = "from ordered import larger\n\ndef test_larger():\n    assert larger(2, 1)\n"


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "ordered.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_ordered.py").write_text(TESTS)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (("a > b", "a > b"), SURVIVED),
        (("a > b", "a >= b"), SURVIVED),
        (("a > b", "a < b"), KILLED),
        (("return", "return return"), KILLED),
        (("    return", "    while True: pass\n    return"), ENDLESS),
    ],
    ids=["nothing", "not noticed", "noticed", "not imported", "endless"],
)
def test_what_becomes_of_a_mutant(repository, change, outcome):
    log = repository / "log"
    found, seconds = run(repository, "ordered.py", SOURCE.replace(*change), ["tests/test_ordered.py"], 6, log)
    assert found == outcome, log.read_text()
    assert seconds > 0
    assert (repository / "ordered.py").read_text() == SOURCE


def test_the_nearest_tests_are_there():
    assert {module for module, _ in EQUIVALENT} <= NEAREST.keys()
    for module in NEAREST:
        assert all((ROOT / path).is_file() for path in (module, *nearest(module))), module
    assert module_name("training/data/__init__.py") == "training.data"
    assert module_name("quantize/packing.py") == "quantize.packing"


TYPED = '''\
def scaled(x: int | None, by: float = 2) -> int | float:
    """Twice: 1 + 1."""
    if x is None:
        return 0
    return x * by
'''


def test_mutants_are_the_same_everywhere(tmp_path):
    """And a line more changes those of no other line."""
    pytest.importorskip("cosmic_ray")
    from mutation.mutants import sample

    (tmp_path / "typed.py").write_text(TYPED)
    mutants = sample(tmp_path, ["typed.py"], 99, seed=1)
    assert {m.line for m in mutants} == {1, 3, 4, 5}
    assert all("x: int | None, by: float =" in m.after and "int | float:" in m.after for m in mutants if m.line == 1)
    assert len({m.source for m in mutants} - {TYPED}) == len(mutants)
    assert sample(tmp_path, ["typed.py"], 2, seed=1) == mutants[:2]
    assert any(sample(tmp_path, ["typed.py"], 99, seed=s) != mutants for s in range(2, 6))
    (tmp_path / "typed.py").write_text("FIRST = 1\n" + TYPED)
    later = [m for m in sample(tmp_path, ["typed.py"], 99, seed=1) if m.line > 1]
    assert [(m.line - 1, m.before, m.after) for m in later] == [(m.line, m.before, m.after) for m in mutants]
