"""Random networks for differential tests: branches, shared layers, functional and scripted readers, kept features.

A graph is a list of steps. Each takes values that earlier ones made, all of one shape, and makes another. What a step
does beside computing (keep a feature on the model, read it in TorchScript, change it in place, hand it to a hook) is
what conversion could overlook. There are graphs of images, sequences, tokens and rows; :mod:`random_steps` has what
steps compute.
"""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from random_steps import CENTRED, FUNCTIONS, KINDS, Kind
from torch import nn

# What becomes of a value beside the next step.
ASIDES = (
    *("nothing", "keep", "keep in a list", "keep in an object", "keep in a function", "script", "detach", "shape"),
    *("in place", "keep below"),
)
# What a hook of the step's module does.
HOOKS = ("none", "keeps", "doubles", "shifts the input")
RETURNS = ("tensor", "tuple", "dict", "namespace", "object", "dataclass", "named", "nested")
TENSORS = ("tensor", "tuple", "dict")  # of these, what a file returns
UNTRACED = ("norm in training",)  # it counts its batches
DTYPES = ("float32", "float32", "float32", "float64", "bfloat16")
CHANNELS = (64, 24, 72, 132)  # whole words, less than one, a few bits more, two and a bit


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: ``what`` names a module or a function; ``first`` and ``second`` count back from the last value.

    Attributes:
        number: decides between options of the module.
        aside: one of ASIDES.
        reuse: take the module that an earlier step has made, not a new one.
        keyword: call it with ``input=``.
        hook: one of HOOKS, for a new module.
    """

    what: str
    number: int
    first: int = 0
    second: int = 0
    aside: str = "nothing"
    reuse: bool = False
    keyword: bool = False
    hook: str = "none"


@dataclasses.dataclass
class Answer:
    scores: torch.Tensor
    feature: torch.Tensor


class Named(NamedTuple):
    scores: torch.Tensor
    feature: torch.Tensor


class Plain:
    def __init__(self, scores, feature):
        self.scores, self.feature = scores, feature


KEPT_BY_HOOKS: list[torch.Tensor] = []


def _hooked(part: nn.Module, hook: str) -> nn.Module:
    if isinstance(part, torch.jit.ScriptModule):  # has no hooks
        return part
    if hook == "keeps":
        part.register_forward_hook(lambda _, args, output: KEPT_BY_HOOKS.append(output))
    elif hook == "doubles":
        part.register_forward_hook(lambda _, args, output: 2 * output)
    elif hook == "shifts the input":
        part.register_forward_pre_hook(lambda _, args: (args[0] + 0.25,) if args else None)
    return part


class Graph(nn.Module):
    """The network that ``steps`` describe, of a kind and a number of channels, which ends in the form ``returns``."""

    def __init__(self, steps: list[Step], returns: str, kind: Kind, channels: int):
        super().__init__()
        self.steps, self.returns, self.kind, self.channels = steps, returns, kind, channels
        self.kept: list[torch.Tensor] = []
        self.below = SimpleNamespace(value=None)
        self.parts = nn.ModuleList()
        self.part_of: list[int] = []
        made: dict[str, int] = {}
        for step in steps:
            if step.what not in kind.modules:
                self.part_of.append(-1)
                continue
            if not (step.reuse and step.what in made):
                made[step.what] = len(self.parts)
                self.parts.append(_hooked(kind.modules[step.what](step.number, channels), step.hook))
            self.part_of.append(made[step.what])

    def forward(self, x):
        values = [x]
        self.kept = []
        for step, part in zip(self.steps, self.part_of, strict=True):
            first, second = (values[-1 - place % len(values)] for place in (step.first, step.second))
            values.append(self.after(self.compute(step, part, first, second), step.aside))
        return self.answer(values)

    def compute(self, step: Step, part: int, first, second):
        if part < 0:
            return FUNCTIONS[step.what](first, second)
        module = self.parts[part]
        by_keyword = step.keyword and type(module).__module__.startswith("torch.nn")
        return module(input=first) if by_keyword else module(first)

    def after(self, value, aside: str):
        if aside == "keep":
            self.feature = value
        elif aside == "keep in a list":
            self.kept.append(value)
        elif aside == "keep in an object":
            self.below.value = value
        elif aside == "keep in a function":
            self.held = [lambda: value]
        elif aside == "keep below":
            self.parts[0].feature = value
        elif aside == "script":
            value = value + CENTRED(value).mean()
        elif aside == "detach":
            self.detached = value.detach()
        elif aside == "shape":
            value = value.reshape(value.shape)
        elif aside == "in place":
            value = value.clone() if value.requires_grad else value.mul_(0.5)
        return value

    def remembered(self) -> list:
        """What it keeps after a run, in any form."""
        below = [getattr(self.parts[0], "feature", None)] if len(self.parts) else []
        held = [function() for function in getattr(self, "held", ())]
        features = [getattr(self, name, None) for name in ("feature", "detached")]
        return [*features, *self.kept, self.below.value, *held, *below, *KEPT_BY_HOOKS]

    def answer(self, values):
        scores, feature = values[-1].mean(-1), values[len(values) // 2]
        forms = {
            "tensor": lambda: scores,
            "tuple": lambda: (scores, feature),
            "dict": lambda: {"scores": scores, "feature": feature},
            "namespace": lambda: SimpleNamespace(scores=scores, feature=feature),
            "object": lambda: Plain(scores, feature),
            "dataclass": lambda: Answer(scores, feature),
            "named": lambda: Named(scores, feature),
            "nested": lambda: {"all": [scores, (SimpleNamespace(deep={"feature": feature}), None)], "number": 3},
        }
        return forms[self.returns]()

    def extra_repr(self) -> str:
        return "\n".join([f"{self.channels} channels, returns {self.returns}", *map(str, self.steps)])


def _step(draw, kind: Kind, names: list[str]) -> Step:
    often = [name for name in kind.fused for _ in range(2)]
    return Step(
        draw(st.sampled_from([*often, *names])),
        draw(st.integers(0, 59)),
        draw(st.sampled_from([0, 0, 0, 0, 1, 2])),
        draw(st.integers(0, 3)),
        draw(st.sampled_from(["nothing"] * 14 + list(ASIDES))),
        draw(st.integers(0, 5)) == 0,
        draw(st.integers(0, 3)) == 0,
        draw(st.sampled_from(["none"] * 20 + list(HOOKS))),
    )


@st.composite
def graphs(draw, traced: bool = False) -> Graph:
    """A network with at least one layer that can become binary; ``traced``: that has a form as a file."""
    kind = KINDS[draw(st.sampled_from(["images", "images", *KINDS]))]
    names = [name for name in (*kind.modules, *FUNCTIONS) if not (traced and name in UNTRACED)]
    steps = [_step(draw, kind, names) for _ in range(draw(st.integers(2, 12)))]
    steps.insert(draw(st.integers(0, len(steps))), Step(kind.fused[0], draw(st.integers(0, 5))))
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return Graph(steps, draw(st.sampled_from(TENSORS if traced else RETURNS)), kind, draw(st.sampled_from(CHANNELS)))
