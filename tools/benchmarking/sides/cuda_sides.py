"""A CUDA device: our kernels and packed networks against cuDNN's bf16, channels-last on every side.

Times are the device's own, by events. A call is one of CALLS in a CUDA graph, so that what Python takes to launch a
kernel, which a stream of work hides, does not count for any side.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import quantize
from quantize import kernels, packing
from training.watch.console import progress

from .. import machine
from ..cases import SHAPES, ConvCase, Problem, signs
from ..measure import measure
from ..result import Result
from ..side import Built, Side
from ..timing import Timer
from .network_sides import NetworkCase, NetworkProblem, expected_binary

CALLS = 20
BATCH = 256
DEVICE = "cuda"


class DeviceClock:
    """Seconds of the device a call, where each reading but the first follows a graph of CALLS calls."""

    def __init__(self):
        self._start = self._event()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __call__(self) -> float:
        now = self._event()
        now.synchronize()
        return self._start.elapsed_time(now) / 1000 / CALLS  # from milliseconds


def captured(call: Callable[[], Tensor]) -> Built:
    """``call`` as a graph of CALLS of them; the first one, outside, is for autotuners."""
    with torch.inference_mode():
        call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(CALLS):
                answer = call()

    def run() -> Tensor:
        graph.replay()
        return answer

    return Built(run)


@dataclasses.dataclass(frozen=True)
class ConvProblem(Problem):
    """On the device, channels-last."""

    @functools.cached_property
    def prepared(self) -> Tensor:
        return kernels.prepare_weights(packing.pack_weights(self.weight), self.case.geometry)


@dataclasses.dataclass(frozen=True)
class ConvOnDevice:
    """A convolution of :mod:`..cases`."""

    case: ConvCase
    device: str = DEVICE

    @property
    def name(self) -> str:
        return self.case.name

    def macs(self, batch: int) -> int:
        return self.case.macs(batch)

    def problem(self, batch: int) -> ConvProblem:
        """The answer is torch's float convolution on the device: sums of so few +-1 are exact."""
        c, generator = self.case, torch.Generator().manual_seed(0)
        shapes = (batch, c.channels, c.size, c.size), (c.out_channels, c.channels, c.kernel, c.kernel)
        values = (signs(shape, generator) for shape in shapes)
        x, weight = (v.to(self.device, memory_format=torch.channels_last) for v in values)
        return ConvProblem(c, x, weight, F.conv2d(x, weight, padding=c.padding))


def build_bits(problem: ConvProblem, threads: int) -> Built:
    """As between two packed layers."""
    words, geometry = kernels.pack(problem.x), problem.case.geometry
    return captured(lambda: kernels.conv2d(words, problem.prepared, geometry, output="bits").view(torch.uint8))


def expected_bits(problem: ConvProblem) -> Tensor:
    return packing.pack_activations(problem.expected).view(torch.uint8)


def build_floats(problem: ConvProblem, threads: int) -> Built:
    geometry = problem.case.geometry
    return captured(lambda: kernels.conv2d_float(problem.x, problem.prepared, geometry, layout="nhwc"))


def build_bf16(problem: ConvProblem, threads: int) -> Built:
    x, weight, padding = problem.x.bfloat16(), problem.weight.bfloat16(), problem.case.padding
    return captured(lambda: F.conv2d(x, weight, padding=padding))


@dataclasses.dataclass(frozen=True)
class NetworkOnDevice:
    """A network of models/ whose name ends in a scheme."""

    name: str
    device: str = DEVICE

    @functools.cached_property
    def case(self) -> NetworkCase:
        return NetworkCase(self.name)

    def macs(self, batch: int) -> int:
        return self.case.macs(batch)

    def problem(self, batch: int) -> NetworkProblem:
        x = self._moved(self.case.batch(batch))
        networks = [self._moved(copy.deepcopy(network)) for network in self.case.networks]
        with torch.inference_mode():
            return NetworkProblem(x, *networks, *(network(x) for network in networks))

    def _moved(self, value: Any) -> Any:
        return value.to(self.device, memory_format=torch.channels_last)


def build_packed(problem: NetworkProblem, threads: int, half: bool) -> Built:
    """``half``: floats between the packed layers are bf16."""
    packed = quantize.convert(copy.deepcopy(problem.binary_model).cpu(), problem.x[:1].cpu())
    packed = packed.to(problem.x.device, memory_format=torch.channels_last)

    def call() -> Tensor:
        # A cache of bf16 weights would outlive the capture that fills it.
        with torch.autocast(problem.x.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            return packed(problem.x)

    return captured(call)


def build_bf16_network(problem: NetworkProblem, threads: int) -> Built:
    model, x = copy.deepcopy(problem.float_model).bfloat16(), problem.x.bfloat16()
    return captured(lambda: model(x))


# bf16 rounds an output to 8 bits. Floats that are rounded in another way turn a sign here and there.
CONV_SIDES = (
    Side("cuda_bits", "xnorkit, bits in and out", build_bits, expected_bits),
    Side("cuda_floats", "xnorkit, floats in and out", build_floats),
    Side("cudnn_bf16", "cuDNN bf16", build_bf16, tolerance=0.01),
)
NETWORK_SIDES = (
    Side("cuda_packed", "xnorkit", functools.partial(build_packed, half=True), expected_binary, tolerance=0.5),
    Side(
        "cuda_packed_float32",
        "xnorkit, float32 between layers",
        functools.partial(build_packed, half=False),
        expected_binary,
        tolerance=0.1,
    ),
    Side("cudnn_bf16_network", "float twin in bf16", build_bf16_network, tolerance=0.1),
)
GROUPS = {
    "convolutions": (
        [ConvOnDevice(SHAPES["256-256-3x3-14x14"]), ConvOnDevice(SHAPES["512-512-3x3-7x7"])],
        CONV_SIDES,
    ),
    "whole networks": ([NetworkOnDevice("resnet18_bireal")], NETWORK_SIDES),
}


def describe(argv: list[str]) -> dict[str, Any]:
    """Where figures of a device come from. Raises ValueError where there is none."""
    if not torch.cuda.is_available():
        raise ValueError(
            "--cuda needs a CUDA device, and torch finds none here; run it where torch.cuda.is_available() is true"
        )
    found = machine.describe(argv)
    import triton  # it comes with CUDA builds of torch alone

    found["versions"] |= {"triton": triton.__version__, "cuDNN": str(torch.backends.cudnn.version())}
    return {**found, "gpu": torch.cuda.get_device_name()}


def measure_cuda(result: Result, batches: Sequence[int]) -> None:
    """Fill ``result`` with the groups; cuDNN chooses among its algorithms by trying them, as ours are chosen."""
    torch.backends.cudnn.benchmark = True
    timer = Timer(result.rounds, DeviceClock(), interruptions=lambda: 0)
    for group, (cases, sides) in GROUPS.items():
        runs = [(case, batch) for batch in batches for case in cases]
        rows = [measure(case, sides, batch, [1], timer) for case, batch in progress(runs, len(runs), group)]
        result.groups[group] = [row for part in rows for row in part]
