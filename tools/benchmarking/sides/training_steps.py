"""A training step of a binary network and of its float twin: the same layout, optimizer and batch.

Memory is measured in a process for each: from the network and its first step, which makes the optimizer's state, to
the peak of the steps after it.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
import quantize
from quantize.scheme import preferred_layouts
from training.watch.environment import keep_freed_memory

from ..side import Built, Side, Unavailable
from .network_sides import NetworkCase
from .resident_memory import CLEAR, ROOT, STATUS, TIDY, resident

FLOAT, BINARY = "float_step", "binary_step"
PEAK_STEPS = 2
MOST = 20.0  # a loss: only nonsense is noticed


@dataclasses.dataclass(frozen=True)
class TrainingCase:
    """A network of models/ whose name ends in a scheme. Raises ValueError for another name."""

    network: str
    device: str = "cpu"

    def __post_init__(self):
        self.case  # noqa: B018  refuses other names

    @functools.cached_property
    def case(self) -> NetworkCase:
        return NetworkCase(self.network)

    @property
    def name(self) -> str:
        return self.network if self.device == "cpu" else f"{self.network}, {self.device}, bf16"

    def macs(self, batch: int) -> int:
        return 3 * self.case.macs(batch)  # the gradients of the input and of the weight take as many

    def problem(self, batch: int) -> "TrainingProblem":
        x = self.case.batch(batch).to(memory_format=torch.channels_last)
        classes = self.case.networks[0](self.case.batch(1)).shape[1]
        y = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(batch))
        return TrainingProblem(self, x, y)


@dataclasses.dataclass(frozen=True)
class TrainingProblem:
    """A batch and its classes."""

    case: TrainingCase
    x: Tensor
    y: Tensor

    def model(self, kind: str) -> nn.Module:
        """One of the two networks, new, to be trained."""
        torch.manual_seed(0)
        model = models.create_model(self.case.network, schemes=preferred_layouts())
        if kind == BINARY:
            spec, x = self.case.case.spec, self.case.case.batch(8)
            model = quantize.prepare(model, spec.scheme, x, keep_float=spec.keep_float, inplace=True)
        return model.to(self.case.device, memory_format=torch.channels_last).train()


def step_of(problem: TrainingProblem, kind: str) -> Built:
    """Forward, loss, backward and SGD with momentum; on CUDA under bf16 autocast."""
    device = problem.case.device
    model, x, y = problem.model(kind), problem.x.to(device), problem.y.to(device)
    optimizer = torch.optim.SGD(quantize.param_groups(model, 1e-4), 0.01, momentum=0.9)
    cuda = device == "cuda"

    def run() -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=cuda):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        return loss.detach().cpu()

    return Built(run)


def _build(problem: TrainingProblem, threads: int, kind: str) -> Built:
    if problem.case.device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("not run: this machine has no CUDA device")
    keep_freed_memory()
    return step_of(problem, kind)


def _expected(problem: TrainingProblem) -> Tensor:
    return torch.tensor(MOST)


TRAINING_SIDES = {
    name: Side(name, title, functools.partial(_build, kind=name), _expected, tolerance=1.0)
    for name, title in ((FLOAT, "float step"), (BINARY, "binary step"))
}


def measure_training_memory(case: TrainingCase, batch: int) -> dict[str, Any] | None:
    """Bytes at the peak of a training step of both networks, on one thread; None where the system does not tell."""
    if case.device != "cpu" or not STATUS.exists() or not os.access(CLEAR, os.W_OK):
        return None
    return {"case": case.name, "batch": batch, **{kind: _in_a_process(case, batch, kind) for kind in (FLOAT, BINARY)}}


def _in_a_process(case: TrainingCase, batch: int, kind: str) -> int:
    command = [sys.executable, "-m", "tools.benchmarking.sides.training_steps", case.network, str(batch), kind]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **TIDY}, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def _peak(case: TrainingCase, batch: int, kind: str) -> int:
    torch.set_num_threads(1)
    problem = case.problem(batch)
    step_of(case.problem(1), kind).run()  # code and tables of libraries
    before = resident("VmRSS")
    run = step_of(problem, kind).run
    run()
    CLEAR.write_text("5")
    for _ in range(PEAK_STEPS):
        run()
    return resident("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps(_peak(TrainingCase(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
