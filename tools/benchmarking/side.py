"""Who computes: each side is built once for a problem and a number of threads, and then runs it."""

import dataclasses
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quantize import kernels, packing

from .cases import Problem


class Unavailable(Exception):
    """A side that cannot run here; the message says why."""


def optional_module(name: str) -> ModuleType:
    """The module, or Unavailable where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Unavailable(f"{name} is not installed (pip install 'xnorkit[bench]')") from None


@dataclasses.dataclass(frozen=True)
class Built:
    """A side that is ready: ``run()`` gives its answer, an array or a tensor; ``detail`` says what computes it."""

    run: Callable[[], Any]
    detail: str = ""


class WrongNumbers(Exception):
    """A side that does not compute what it should: its times mean nothing."""


def expected_sums(problem: Problem) -> Tensor:
    return problem.expected


@dataclasses.dataclass(frozen=True)
class Side:
    """``build(problem, threads)`` may raise Unavailable; ``expected(problem)`` is what its run must give, to within
    ``tolerance`` times the largest value of it.
    """

    name: str
    title: str
    build: Callable[[Any, int], Built]
    expected: Callable[[Any], Tensor] = expected_sums
    tolerance: float = 0.0

    def verify(self, problem: Any, answer: Any) -> None:
        """Raises WrongNumbers unless ``answer``, an array or a tensor, is right."""
        answer, expected = torch.as_tensor(answer), self.expected(problem)
        if answer.shape != expected.shape:
            raise WrongNumbers(f"{self.name} gives shape {tuple(answer.shape)}, not {tuple(expected.shape)}")
        error = (answer.double() - expected.double()).abs().max().item()
        if not error <= self.tolerance * expected.abs().max().item():  # NaN is wrong too
            raise WrongNumbers(f"{self.name} computes wrong numbers: they differ by up to {error:g}")


def build_ours(problem: Problem, threads: int) -> Built:
    geometry, size = problem.case.geometry, tuple(problem.x.shape[2:])
    weights = kernels.prepare_weights(packing.pack_weights(problem.weight), geometry, size=size)
    return Built(lambda: kernels.conv2d_float(problem.x, weights, geometry), kernels.kernel_name(weights))


def build_ours_on_bits(problem: Problem, threads: int) -> Built:
    """The convolution alone: packed before, its sums as they are."""
    geometry, size = problem.case.geometry, tuple(problem.x.shape[2:])
    weights = kernels.prepare_weights(packing.pack_weights(problem.weight), geometry, size=size)
    bits = kernels.pack(problem.x)
    return Built(lambda: kernels.conv2d(bits, weights, geometry, output="int32"), kernels.kernel_name(weights))


def build_torch_float(problem: Problem, threads: int) -> Built:
    x, weight, padding = problem.x, problem.weight, problem.case.padding

    def run() -> Tensor:
        with torch.inference_mode():
            return F.conv2d(x, weight, padding=padding)

    return Built(run, torch.backends.cpu.get_cpu_capability())
