"""Where a network spends its time in onnxruntime, node by node."""

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import quantize

from .side import optional_module
from .sides.network_sides import NetworkCase, NetworkProblem, exact_int8_file, float_file, int8_file, packed_file

RUNS, WARM_UP_RUNS = 100, 10

# Sides that are a file in onnxruntime: how it is written, and whether our kernels run it.
PROFILED: dict[str, tuple[Callable[[NetworkProblem, Path], Path], bool]] = {
    "xnorkit_onnx": (packed_file, True),
    "xnorkit_onnx_alone": (packed_file, False),
    "xnorkit_int8": (exact_int8_file, False),
    "ort_float": (float_file, False),
    "ort_int8": (int8_file, False),
}

HEADER = ["node", "operator", "us", "share"]
BETWEEN = "(between nodes)"


class NodeTime(NamedTuple):
    """A node of the graph that onnxruntime made: the median of its microseconds, and their share of a run's."""

    name: str
    operator: str
    us: float
    share: float


def node_times(events: Iterable[Mapping[str, Any]], warm_up: int = WARM_UP_RUNS) -> list[NodeTime]:
    """The nodes of onnxruntime's profile in their order, and what a run takes besides; the first runs left out."""
    nodes: dict[str, list[int]] = {}
    operators, runs = {}, []
    for event in events:
        if event["name"] == "model_run":
            runs.append(event["dur"])
        elif event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            operators[name] = event["args"]["op_name"]
            nodes.setdefault(name, []).append(event["dur"])
    run = statistics.median(runs[warm_up:])
    medians = {name: statistics.median(times[warm_up:]) for name, times in nodes.items()}
    found = [NodeTime(name, operators[name], us, us / run) for name, us in medians.items()]
    rest = run - sum(medians.values())
    return [*found, NodeTime(BETWEEN, "", rest, rest / run)]


def profile(case: NetworkCase, side: str, batch: int, threads: int) -> list[NodeTime]:
    """One side, of :data:`PROFILED`, of a network. Raises Unavailable where onnxruntime is not installed."""
    runtime = optional_module("onnxruntime")
    write, kernels = PROFILED[side]
    problem = case.problem(batch)
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        if kernels:
            options.register_custom_ops_library(quantize.custom_ops_library())
        path = write(problem, Path(folder))
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: problem.x.numpy()}
        for _ in range(WARM_UP_RUNS + RUNS):
            session.run(None, feed)
        return node_times(json.loads(Path(session.end_profiling()).read_text()))


def lines_of(times: Iterable[NodeTime]) -> list[list[str]]:
    """Cells under :data:`HEADER`."""
    return [[time.name, time.operator, f"{time.us:,.0f}", f"{time.share:.1%}"] for time in times]
