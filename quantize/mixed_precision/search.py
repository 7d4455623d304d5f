"""Mixed precision: for each layer float, 8 bits, a few or 1, so that the network is smallest or fastest within a drop.

What one layer's scheme costs in accuracy is measured with that layer alone changed (its sensitivity). The costs of
several do not simply add up, so they only decide the order: steps to cheaper schemes, those first that gain most for
what they lose. The network after the first k of them is measured itself, and k is found by bisection. Steps after that
are tried one by one. This is the greedy solution of a knapsack with several choices a layer, whose items are the steps
on the lower convex hull of each layer's (drop, cost) (Sinha and Zoltners, *The Multiple-Choice Knapsack Problem*,
1979).
"""

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..binary.layers import BinaryLayer
from ..calling import evaluation_copy, keeps_random_state
from ..optim import estimate_statistics, set_progress
from ..planning.plan import NO_THRESHOLD, PENDING, LayerPlan, Plan, plan
from ..prepare import apply_plan, restore
from ..scheme import get_scheme
from ..words import did_you_mean, format_table
from . import costs

SCHEMES = ("xnor", "dorefa:w_bits=1,a_bits=2", "int8")
OBJECTIVES = ("size", "latency")

Assignment = dict[str, str | None]  # layer -> scheme, or None for float


@dataclasses.dataclass(frozen=True)
class Option:
    """A scheme for a layer, everything else as it was.

    Attributes:
        scheme: in command-line form; None: float.
        drop: of the score; below 0 where it rises.
        cost: bytes of the layer's weight, or seconds of a call.
    """

    scheme: str | None
    drop: float
    cost: float


@dataclasses.dataclass(frozen=True)
class LayerChoice:
    """What a layer was, could be and becomes: ``options[0]`` is what it was."""

    layer: str
    options: tuple[Option, ...]
    chosen: Option


@dataclasses.dataclass(frozen=True)
class MixedPrecision:
    """What :func:`search` found. ``print`` it for the table.

    Attributes:
        choices: in the model's order.
        objective: "size" (bytes) or "latency" (seconds).
        score, found_score: of the model as it was, and as found.
    """

    choices: tuple[LayerChoice, ...]
    objective: str
    score: float
    found_score: float

    @property
    def overrides(self) -> Assignment:
        """For :func:`quantize.prepare` and the trainer: the scheme of each layer that was searched, None for float."""
        return {choice.layer: choice.chosen.scheme for choice in self.choices}

    @property
    def cost(self) -> float:
        """Of the layers as they were: the sum of bytes, or of seconds."""
        return sum(choice.options[0].cost for choice in self.choices)

    @property
    def found_cost(self) -> float:
        return sum(choice.chosen.cost for choice in self.choices)

    def save(self, path: str | Path) -> None:
        """Write JSON with ``overrides``, which ``trainer_exp.py --override FILE`` takes, and all that was measured."""
        content = {"overrides": self.overrides, **dataclasses.asdict(self)}
        Path(path).write_text(json.dumps(content, indent=1) + "\n")

    def __str__(self) -> str:
        schemes = list(dict.fromkeys(option.scheme for choice in self.choices for option in choice.options))
        header = ("layer", *(f"{scheme or 'float'}: drop, {self._unit}" for scheme in schemes), "becomes")
        table = format_table(header, [self._row(choice, schemes) for choice in self.choices])
        return (
            f"{table}\nscore {self.score:.2f} -> {self.found_score:.2f}, {self.objective} of these layers "
            f"{self._amount(self.cost)} -> {self._amount(self.found_cost)} {self._unit}"
        )

    @property
    def _unit(self) -> str:
        return "bytes" if self.objective == "size" else "us"

    def _amount(self, cost: float) -> str:
        return f"{cost:,.0f}" if self.objective == "size" else f"{cost * 1e6:,.0f}"

    def _row(self, choice: LayerChoice, schemes: Sequence[str | None]) -> tuple[str, ...]:
        options = {option.scheme: f"{option.drop:+.2f}, {self._amount(option.cost)}" for option in choice.options}
        cells = [options.get(scheme, "-") for scheme in schemes]
        return (choice.layer or "(model)", *cells, choice.chosen.scheme or "float")


@keeps_random_state
def search(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    example_input: Any,
    max_drop: float = 1.0,
    *,
    objective: str = "size",
    schemes: Sequence[str] = SCHEMES,
    calibration: Iterable[Any] | None = None,
) -> MixedPrecision:
    """Choose a scheme for each layer of a trained model, to the smallest size or latency within a drop of the score.

    Layers go to schemes that cost less than what they have; a layer that is binary already stays as it was trained
    unless one is cheaper. The result's ``overrides`` are for :func:`quantize.prepare` or the trainer, to train on with.

    Args:
        model: trained, float or prepared; left as it is.
        evaluate: ``evaluate(model) -> score``, the higher the better, of copies in evaluation mode. It may train them
            first. It is called about (layers x schemes + layers) times.
        example_input: what the model is called with, as for :func:`quantize.prepare`; with objective "latency" of the
            batch size that counts.
        max_drop: of the score, at most, in its unit.
        objective: "size", of the weights in a file, or "latency", measured here, with the threads that torch has, each
            layer alone; what converts to no faster form is never chosen then.
        schemes: those to choose from beside what a layer has.
        calibration: training batches, each like ``example_input``, on which batch norm's statistics and thresholds are
            estimated before each evaluation. Best given: what a layer computes in bits has other statistics.

    Raises ValueError for a max_drop below 0 or no number, an unknown objective or scheme, no layer that could be
    quantized, or an ``evaluate`` that returns no finite number.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise ValueError(f"max_drop is {max_drop}; it must be a number from 0 up, in the unit of the score")
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}: {did_you_mean(objective, OBJECTIVES)}")
    if not schemes:
        raise ValueError("schemes is empty; name what layers may become, such as 'int8'")
    network = _Network(model, evaluate, example_input, [str(get_scheme(s)) for s in schemes], calibration)
    cost = network.costs(objective)
    layers = {name: network.options(name, cost) for name in network.now}
    found = _cheapest(network, layers, max_drop)
    by_scheme = {name: {option.scheme: option for option in options} for name, options in layers.items()}
    choices = [LayerChoice(name, options, by_scheme[name][found[name]]) for name, options in layers.items()]
    return MixedPrecision(tuple(choices), objective, network.score(network.now), network.score(found))


class _Network:
    """The model under any assignment of schemes.

    Attributes:
        now: what each layer that can be quantized has in the model as it was given.
        float_model: the model without low-bit layers.
    """

    def __init__(self, model: nn.Module, evaluate, example_input: Any, schemes: list[str], calibration):
        self.evaluate, self.example_input, self.schemes = evaluate, example_input, schemes
        self.calibration = None if calibration is None else list(calibration)
        self.model = evaluation_copy(model)
        trained = {n: str(m.scheme) for n, m in self.model.named_modules() if isinstance(m, BinaryLayer)}
        self.float_model = restore(self.model) if trained else self.model
        self.plans = {s: plan(self.float_model, s, example_input, keep_float=()) for s in schemes}
        able = [row.name for row in self.plans[schemes[0]] if any(p[row.name].binary for p in self.plans.values())]
        self.now: Assignment = {name: trained.get(name) for name in able}
        self._scores: dict[tuple, float] = {}

    def costs(self, objective: str) -> costs.Costs:
        """Of all layers that can be quantized, under all schemes and those they have."""
        rows = [next(p[name] for p in self.plans.values() if p[name].binary) for name in self.now]
        every = apply_plan(self.float_model, Plan(map(self._row, rows))).eval()
        layers = {name: m for name, m in every.named_modules() if name in self.now and isinstance(m, BinaryLayer)}
        schemes = dict.fromkeys([*self.schemes, *(scheme for scheme in self.now.values() if scheme)])
        if objective == "size":
            return costs.packed_bytes(layers, schemes)
        return costs.seconds(every, layers, schemes, self.example_input)

    def options(self, name: str, cost: Mapping[tuple[str, str | None], float]) -> tuple[Option, ...]:
        """What the layer has, and what is cheaper, each with the drop when it alone is changed."""
        now = self.now[name]
        options = [Option(now, 0.0, cost.get((name, now), 0.0))]  # it does not run: nothing can be gained
        for scheme in self.schemes:
            if self.plans[scheme][name].binary and cost.get((name, scheme), math.inf) < options[0].cost:
                drop = self.score(self.now) - self.score({**self.now, name: scheme})
                options.append(Option(scheme, drop, cost[name, scheme]))
        return tuple(options)

    def score(self, assignment: Assignment) -> float:
        key = tuple(assignment.items())
        if key not in self._scores:
            score = float(self.evaluate(self._under(assignment)))
            if not math.isfinite(score):
                raise ValueError(f"evaluate returned {score}; it must return a finite number, the higher the better")
            self._scores[key] = score
        return self._scores[key]

    def _under(self, assignment: Assignment) -> nn.Module:
        changed = {name: scheme for name, scheme in assignment.items() if scheme != self.now[name]}
        model = copy.deepcopy(self.model)
        for name in changed:
            if self.now[name] is not None:
                restore(model.get_submodule(name), inplace=True)
        rows = [self._row(self.plans[scheme][name]) for name, scheme in changed.items() if scheme is not None]
        if rows:
            model = apply_plan(model, Plan(rows), inplace=True)
        if self.calibration is not None:
            set_progress(model, 1.0)
            estimate_statistics(model, self.calibration)
        return model.eval()

    def _row(self, row: LayerPlan) -> LayerPlan:
        """With calibration the threshold is set by its first batch: the layers before may be quantized then."""
        if self.calibration is None or row.threshold == NO_THRESHOLD:
            return row
        return dataclasses.replace(row, threshold=PENDING, start=None)


def _cheapest(network: _Network, layers: Mapping[str, tuple[Option, ...]], max_drop: float) -> Assignment:
    """The cheapest assignment that is found whose score drops by at most ``max_drop``."""
    steps = _steps(layers)
    least = network.score(network.now) - max_drop

    def after(count: int) -> Assignment:
        return {**network.now, **dict(steps[:count])}

    low, high = 0, len(steps)  # after `low` steps the score is high enough
    while low < high:
        middle = (low + high + 1) // 2
        if network.score(after(middle)) >= least:
            low = middle
        else:
            high = middle - 1
    found = after(low)
    for name, scheme in steps[low:]:
        if network.score({**found, name: scheme}) >= least:
            found = {**found, name: scheme}
    return found


def _steps(layers: Mapping[str, tuple[Option, ...]]) -> list[tuple[str, str | None]]:
    """(layer, scheme to go to), the step first that loses least for what it gains; a layer's own are in order."""
    steps = []
    for name, options in layers.items():
        hull = _hull(options)
        for before, after in zip(hull, hull[1:], strict=False):
            steps.append((_price(before, after), name, after.scheme))
    return [(name, scheme) for _, name, scheme in sorted(steps, key=lambda step: step[0])]


def _price(before: Option, after: Option) -> float:
    return (after.drop - before.drop) / (before.cost - after.cost)


def _hull(options: Sequence[Option]) -> list[Option]:
    """From the dearest option to the cheapest, those on the lower convex hull of (cost, drop): prices rise."""
    hull: list[Option] = []
    for option in sorted(options, key=lambda option: (-option.cost, option.drop)):
        if hull and hull[-1].cost == option.cost:
            continue
        while len(hull) > 1 and _price(hull[-2], hull[-1]) >= _price(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull
