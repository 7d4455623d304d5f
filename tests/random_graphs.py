"""Random networks for differential tests: branches, shared layers, functional and scripted readers, kept features.

A graph is a list of steps. Each takes values that earlier ones made, all of shape (N, C, H, W), and makes another. What
a step does beside computing (keep a feature on the model, read it in TorchScript, hand it to a hook) is what conversion
could overlook.
"""

import dataclasses
import warnings
from types import SimpleNamespace

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

CHANNELS, SIZE = 64, 7


class Shuffle(nn.Module):
    """Of four groups of channels."""

    def forward(self, x):
        return x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)


class TwoWays(nn.Module):
    """A container that hands its input on twice."""

    def __init__(self, left: nn.Module, right: nn.Module):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return self.left(x) - self.right(x)


def _scripted(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(function)


def _centred(x: torch.Tensor) -> torch.Tensor:
    return x.float() - x.float().mean()


CENTRED = _scripted(_centred)

# name of a module -> how it is made, from its number, which decides between options.
MODULES = {
    "conv3": lambda n: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=(1, 4)[n % 2], bias=bool(n % 3)),
    "conv1": lambda n: nn.Conv2d(CHANNELS, CHANNELS, 1, groups=(1, 2)[n % 2]),
    "replicate": lambda n: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode=("replicate", "circular")[n % 2]),
    "norm": lambda n: nn.BatchNorm2d(CHANNELS, affine=bool(n % 4)),
    "relu": lambda n: nn.ReLU(inplace=n % 5 == 0),
    "hardtanh": lambda n: nn.Hardtanh(),
    "prelu": lambda n: nn.PReLU(CHANNELS),
    "dropout": lambda n: nn.Dropout(0.5),
    "identity": lambda n: nn.Identity(),
    "maxpool": lambda n: nn.MaxPool2d(3, 1, 1),
    "avgpool": lambda n: nn.AvgPool2d(3, 1, 1),
    "shuffle": lambda n: (nn.ChannelShuffle(2), Shuffle())[n % 2],
    "sequence": lambda n: nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU()),
    "two ways": lambda n: TwoWays(nn.Conv2d(CHANNELS, CHANNELS, 1), (nn.Identity(), nn.ReLU())[n % 2]),
}
FUNCTIONS = {
    "add": lambda a, b: a + b,
    "functional relu": lambda a, b: F.relu(a),
    "scripted": lambda a, b: CENTRED(a),
    "gate": lambda a, b: a * b.mean((2, 3), keepdim=True).sigmoid(),
    "view": lambda a, b: a.flatten(1).view(a.shape),
    "half and half": lambda a, b: torch.cat([a[:, ::2], b[:, 1::2]], 1),
}
# What becomes of a value beside the next step.
ASIDES = ("nothing", "keep", "keep in a list", "script", "detach", "shape")
RETURNS = ("tensor", "tuple", "dict", "namespace", "object", "dataclass")


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: ``what`` names a module or a function; ``first`` and ``second`` count back from the last value."""

    what: str
    number: int
    first: int
    second: int
    aside: str
    reuse: bool


@dataclasses.dataclass
class Answer:
    scores: torch.Tensor
    feature: torch.Tensor


class Plain:
    def __init__(self, scores, feature):
        self.scores, self.feature = scores, feature


class Graph(nn.Module):
    """The network that ``steps`` describe, which ends in the form ``returns``."""

    def __init__(self, steps: list[Step], returns: str):
        super().__init__()
        self.steps, self.returns, self.kept = steps, returns, []
        self.parts = nn.ModuleList()
        self.part_of: list[int] = []
        made: dict[str, int] = {}
        for step in steps:
            if step.what not in MODULES:
                self.part_of.append(-1)
                continue
            if not (step.reuse and step.what in made):
                made[step.what] = len(self.parts)
                self.parts.append(MODULES[step.what](step.number))
            self.part_of.append(made[step.what])

    def forward(self, x):
        values = [x]
        self.kept = []
        for step, part in zip(self.steps, self.part_of, strict=True):
            first, second = (values[-1 - place % len(values)] for place in (step.first, step.second))
            value = FUNCTIONS[step.what](first, second) if part < 0 else self.parts[part](first)
            values.append(self.after(value, step.aside))
        return self.answer(values)

    def after(self, value, aside: str):
        if aside == "keep":
            self.feature = value
        elif aside == "keep in a list":
            self.kept.append(value)
        elif aside == "script":
            value = value + CENTRED(value).mean()
        elif aside == "detach":
            self.detached = value.detach()
        elif aside == "shape":
            value = value.reshape(value.shape)
        return value

    def answer(self, values):
        scores, feature = values[-1].mean((2, 3)), values[len(values) // 2]
        forms = {
            "tensor": lambda: scores,
            "tuple": lambda: (scores, feature),
            "dict": lambda: {"scores": scores, "feature": feature},
            "namespace": lambda: SimpleNamespace(scores=scores, feature=feature),
            "object": lambda: Plain(scores, feature),
            "dataclass": lambda: Answer(scores, feature),
        }
        return forms[self.returns]()


def _step(draw) -> Step:
    names = [*MODULES, *FUNCTIONS]
    weights = ["conv3", "conv1", "norm", "norm", "relu", "sequence"]  # what is fused comes more often
    return Step(
        draw(st.sampled_from(weights + names)),
        draw(st.integers(0, 59)),
        draw(st.sampled_from([0, 0, 0, 0, 1, 2])),
        draw(st.integers(0, 3)),
        draw(st.sampled_from(["nothing"] * 8 + list(ASIDES))),
        draw(st.integers(0, 5)) == 0,
    )


@st.composite
def graphs(draw) -> Graph:
    """A network with at least one layer that can become binary."""
    steps = [_step(draw) for _ in range(draw(st.integers(2, 12)))]
    steps.insert(draw(st.integers(0, len(steps))), Step("conv3", draw(st.integers(0, 5)), 0, 0, "nothing", False))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return Graph(steps, draw(st.sampled_from(RETURNS)))
