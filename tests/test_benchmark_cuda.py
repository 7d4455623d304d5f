"""tools/benchmark.py --cuda: its sides compute what they should, and what it says without a device."""

import pytest
import torch

from tools import benchmark
from tools.benchmarking.cases import ConvCase
from tools.benchmarking.measure import Row, measure
from tools.benchmarking.page import performance_page
from tools.benchmarking.result import Result
from tools.benchmarking.side import Built, WrongNumbers
from tools.benchmarking.sides import cuda_sides
from tools.benchmarking.sides.cuda_sides import CONV_SIDES, GROUPS, NETWORK_SIDES, ConvOnDevice, NetworkOnDevice
from tools.benchmarking.timing import Timer

TINY = ConvOnDevice(ConvCase(64, 40, 3, 5), "cpu")
LENET = NetworkOnDevice("lenet5_xnornet", "cpu")
# Packed layers take bf16 on a device alone.
SIDES = [(TINY, side) for side in CONV_SIDES] + [(LENET, side) for side in NETWORK_SIDES if side.name != "cuda_packed"]


@pytest.mark.parametrize(("case", "side"), SIDES, ids=lambda value: value.name)
def test_sides_compute_what_they_are_compared_with(case, side, monkeypatch):
    """On the CPU, each call by itself."""
    monkeypatch.setattr(cuda_sides, "captured", lambda call: Built(torch.inference_mode()(call)))
    problem = case.problem(3)
    answer = side.build(problem, 1).run()
    side.verify(problem, answer)
    with pytest.raises(WrongNumbers):
        side.verify(problem, answer.flip(0))


def test_without_a_device_the_tool_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main(["--cuda"]) == 2
    error = capsys.readouterr().err
    assert "benchmark: error: --cuda needs a CUDA device, and torch finds none here" in error
    assert "Traceback" not in error


def test_the_page_says_that_nothing_ran():
    page = performance_page.page([])
    for cases, sides in GROUPS.values():
        for case in cases:
            assert f"| {case.name} |{' not run |' * len(sides)}\n" in page
    assert "python tools/benchmark.py --cuda" in page


def test_the_page_shows_what_ran():
    environment = {
        **{"command": "python tools/benchmark.py --cuda", "date": "2026-01-02", "cpu": "Abacus", "cores": 3},
        **{"flags": [], "load": 0, "versions": {"triton": "9"}, "gpu": "Loom"},
    }
    rows = [Row(TINY.name, 2, 1, "cuda_bits", 1000, "", 1.0, 1.0, 1.0, 5, 0, 7.0, 1.0)]
    text = performance_page.page([Result("cuda", environment, 1, {"convolutions": rows})])
    assert "not run" not in text
    assert "Loom; Abacus, 3 cores" in text
    assert TINY.name in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_graph_is_timed_by_the_call():
    x = torch.randn(4096, 4096, device="cuda")
    case = ConvOnDevice(ConvCase(64, 40, 3, 5))
    rows = measure(case, CONV_SIDES, 2, [1], Timer(1, cuda_sides.DeviceClock(), interruptions=lambda: 0))
    assert all(row.median_us > 0 for row in rows)
    built, clock = cuda_sides.captured(lambda: x @ x), cuda_sides.DeviceClock()
    before = clock()
    built.run()
    assert 2 * 4096**3 / 2e15 < clock() - before < 0.1  # no device computes faster
