"""The fuzz test, with few mutants and the installed library (`make fuzz-ort` has many, and a sanitizer), and that it
would see what it looks for."""

import numpy as np
import onnx
import pytest
from fuzz_ort import driver
from fuzz_ort.mutations import mutant
from fuzz_ort.seeds import SEEDS, write_seeds
from fuzz_ort.worker import outcome, verdict
from ort_models import session

import quantize
from quantize.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    directory = tmp_path_factory.mktemp("seeds")
    return directory, write_seeds(directory)


def test_few_mutants(seeds):
    directory, _ = seeds
    counts, failures = driver.fuzz(directory, quantize.custom_ops_library(), 0, 250, limit=300)
    assert not failures
    assert sum(counts.values()) - counts["seconds"] == 250
    assert counts["agrees"] > 25
    assert counts["refused"] > 100


@pytest.mark.parametrize("name", SEEDS)
def test_a_valid_file_agrees(seeds, name):
    data = seeds[1][name]
    known = {key: np.ones(shape, dtype=np.float32) for key, shape in SEEDS[name][1].items()}
    ours = outcome(data, quantize.custom_ops_library(), known)
    assert verdict(ours, outcome(data, None, known)) == "agrees"
    assert verdict(ours + 0.01, ours).startswith("WRONG: [")
    assert verdict(ours[:1], ours).startswith("WRONG: shape")
    assert verdict(ours, "an error") == "WRONG: ran where the standard operators fail: an error"
    assert verdict("an error", ours) == "refused"
    assert verdict(ours * np.nan, ours) == "not a number"


def test_mutants_are_the_same_everywhere(seeds):
    models = seeds[1]
    assert [mutant(models, n) for n in range(20)] == [mutant(models, n) for n in range(20)]
    assert len({mutant(models, n)[2] for n in range(20)}) == 20


WORKERS = {
    "crash": "print(3, 'kernels', flush=True); import os; os.abort()",
    "no end": "print(3, 'kernels', flush=True); import time; time.sleep(600)",
    "WRONG": "print(3, 'kernels'); print(3, 'WRONG: 1 instead of 2')",
}


@pytest.mark.parametrize("failure", WORKERS)
def test_the_driver_sees_a_failure_and_goes_on(failure, tmp_path, monkeypatch):
    """A worker that fails at mutant 3, and agrees from 4 on."""
    (tmp_path / "fake.py").write_text(
        "import sys\nif int(sys.argv[3]) > 3: print(4, 'agrees'); sys.exit()\nprint(2, 'agrees')\n" + WORKERS[failure]
    )
    monkeypatch.setattr(driver, "WORKER", "fake")
    monkeypatch.chdir(tmp_path)  # where -m looks first
    counts, failures = driver.fuzz(tmp_path, quantize.custom_ops_library(), 2, 5, limit=2)
    assert list(failures) == [3]
    assert failures[3].startswith(failure)
    assert counts["agrees"] == 2


def test_the_seeds_are_run_by_our_kernels(seeds):
    for data in seeds[1].values():
        model = onnx.load_from_string(data)
        del model.functions[:]
        session(model)
