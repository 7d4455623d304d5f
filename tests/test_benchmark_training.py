"""tools/benchmark.py --training: what it steps, measures and writes; no assertion on a real time."""

import contextlib
import io
import json

import pytest
import torch

import quantize
from tools import benchmark
from tools.benchmarking.sides import training_steps
from tools.benchmarking.sides.training_steps import BINARY, FLOAT, TrainingCase


def test_both_networks_have_one_layout_and_start_with_the_same_weights():
    problem = TrainingCase("lenet5_xnornet").problem(2)
    floating, binary = problem.model(FLOAT), problem.model(BINARY)
    assert not any(isinstance(module, quantize.BinaryLayer) for module in floating.modules())
    assert any(isinstance(module, quantize.BinaryLayer) for module in binary.modules())
    assert floating.training
    assert binary.training
    theirs = dict(floating.named_parameters())
    for name, parameter in binary.named_parameters():
        assert torch.equal(parameter, theirs[name]) or name.endswith("threshold")


@pytest.mark.parametrize("kind", [FLOAT, BINARY])
def test_a_step_trains(kind):
    problem = TrainingCase("lenet5_xnornet").problem(4)
    run = training_steps.step_of(problem, kind).run
    first = run()
    for _ in range(30):
        last = run()
    assert last < first / 2  # four images are learned by heart


def test_a_float_network_has_no_binary_step():
    with pytest.raises(ValueError, match="lenet5_xnornet"):
        TrainingCase("lenet5")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(the file that the tool has written, what it printed)."""
    file, printed = tmp_path_factory.mktemp("training") / "training.json", io.StringIO()
    flags = ["--training", "lenet5_xnornet", "--batch", "16", "--threads", "1", "--rounds", "1", "--json", str(file)]
    with contextlib.redirect_stdout(printed):
        assert benchmark.main(flags) == 0
    return file, printed.getvalue()


def test_the_tool_measures_and_reports(measured, tmp_path):
    file, printed = measured
    rows = {(row["case"], row["side"]): row for row in json.loads(file.read_text())["groups"][""]}
    assert rows["lenet5_xnornet", BINARY]["ratio"] > 0
    if not torch.cuda.is_available():
        assert "not run: this machine has no CUDA device" in printed
        assert rows["lenet5_xnornet, cuda, bf16", BINARY]["median_us"] is None
    page = benchmark.write_report([file], tmp_path).read_text()
    assert "## Training steps" in page
    assert "lenet5_xnornet" in page
    assert next(tmp_path.glob("performance/*/training.png")).stat().st_size > 1000


@pytest.mark.skipif(not training_steps.STATUS.exists(), reason="no /proc here")
def test_the_peak_grows_with_the_batch(measured):
    (small,) = json.loads(measured[0].read_text())["memory"]  # of the tool's batch of 16
    large = training_steps.measure_training_memory(TrainingCase("lenet5_xnornet"), 256)
    assert small["batch"] == 16
    assert 0 < small[BINARY] < large[BINARY]
    assert large[FLOAT] > 256 * 28 * 28 * 4
