"""tools/benchmark.py --profile: shares of nodes, from made-up events and of a real run."""

import pytest

from quantize import kernels
from tools import benchmark
from tools.benchmarking.known_sides import NETWORK_SIDES
from tools.benchmarking.profile import BETWEEN, PROFILED, NodeTime, node_times, profile
from tools.benchmarking.sides.network_sides import NetworkCase

native = pytest.mark.skipif("avx2" not in kernels.available_kernels(), reason="the native library was not built")


def run_of(run: int, **nodes: int) -> list[dict]:
    """What onnxruntime writes of a run."""
    events = [
        {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": {"op_name": name.title()}}
        for name, us in nodes.items()
    ]
    fences = [{"cat": "Node", "name": f"{name}_fence_before", "dur": 1000, "args": {}} for name in nodes]
    return [*events, *fences, {"cat": "Session", "name": "model_run", "dur": run}]


def test_medians_and_shares_without_the_first_runs():
    start = [{"cat": "Session", "name": "session_initialization", "dur": 10**6}]
    slow, others = run_of(9000, conv=5000, relu=3000), [run_of(100, conv=60, relu=n) for n in (9, 10, 30)]
    found = node_times(start + slow + sum(others, []), warm_up=1)
    assert found == [NodeTime("conv", "Conv", 60, 0.6), NodeTime("relu", "Relu", 10, 0.1), (BETWEEN, "", 30, 0.3)]


def test_networks_can_be_exported_where_the_problem_is_the_first_to_ask_for_them():
    """Parameters made in inference mode can be neither prepared nor exported."""
    problem = NetworkCase("lenet5_xnornet").problem(1)
    assert problem.expected.is_inference()
    for model in (problem.float_model, problem.binary_model):
        assert not any(parameter.is_inference() for parameter in model.parameters())


@native
def test_every_onnxruntime_side_has_a_profile():
    """Our operators are where our kernels run, and nowhere else."""
    assert set(PROFILED) <= set(NETWORK_SIDES)
    case = NetworkCase("lenet5_xnornet")
    for side in PROFILED:
        times = profile(case, side, 1, 1)
        assert any(time.operator.startswith("BinaryConv") for time in times) == (side == "xnorkit_onnx")
        assert sum(time.share for time in times) == pytest.approx(1)
        assert times[-1].name == BETWEEN


@native
def test_the_command_line_prints_it(capsys):
    flags = "--network lenet5_xnornet --batch 2 --threads 1 --rounds 1 --side xnorkit_onnx torch_float --profile"
    assert benchmark.main(flags.split()) == 0
    printed = capsys.readouterr().out
    assert "profile of lenet5_xnornet, xnorkit in onnxruntime, batch 2, 1 thread\nnode " in printed
    assert printed.count("profile of") == 1  # torch has none
    assert "BinaryConv" in printed.split("profile of")[1]


def test_it_needs_a_network(capsys):
    assert benchmark.main(["--profile"]) == 2
    assert "--profile is of whole networks; name one with --network" in capsys.readouterr().err
