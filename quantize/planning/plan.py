"""The dry run: which layers become binary, which stay float, and why."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..binary import transposed  # noqa: F401  (registers its layer)
from ..binary.adapters import own_weight
from ..binary.attention import join, split_all
from ..binary.quantized_layer import channel_dim
from ..binary.threshold import needs_threshold, threshold_start
from ..calling import check_has_layers
from ..scheme import Scheme, get_scheme
from ..words import did_you_mean, format_table
from .observe import Observation, observe
from .obstacles import Obstacles, find_layers, functional_weights, is_expert_tensor
from .roles import MIN_FAN_IN, adapters, check_agreement, kept_float, tiny
from .selection import Choice, Overrides

# Threshold column of a plan.
NO_THRESHOLD, ZERO = "-", "0"
LEARNED_FROM_ZERO, LEARNED_FROM_MEAN = "learned from 0", "learned from the input's mean"
PENDING = "set by the first training batch"


@dataclasses.dataclass
class LayerPlan:
    """One layer of a :class:`Plan`, or one matrix that no layer multiplies by (then ``type`` is its owner's).

    Attributes:
        name: the layer's name in the model ("" for the model itself).
        type: its class name.
        shape: of its weight.
        scheme: the scheme in command-line form, or None where the layer stays float.
        reason: why.
        threshold: "-" (its scheme does not compare), "0", or where a learned threshold starts.
        output_size: spatial size of its output on the example input, where there was one.
        warning: what speaks against making it binary, "" where nothing does.
        start: the learned threshold's first values, shape (input channels,), where they are known.
        configured: ``scheme`` as an object; None in a plan that was read from a checkpoint.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    scheme: str | None
    reason: str
    threshold: str = NO_THRESHOLD
    output_size: tuple[int, ...] | None = None
    warning: str = ""
    start: Tensor | None = dataclasses.field(default=None, repr=False, compare=False)
    configured: Scheme | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def binary(self) -> bool:
        return self.scheme is not None


class Plan(Sequence[LayerPlan]):
    """The rows of a plan, in the model's order. ``print(plan)`` shows a table."""

    def __init__(self, rows: Iterable[LayerPlan]):
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        if not isinstance(index, str):
            return self.rows[index]
        rows = {row.name: row for row in self.rows}
        if index not in rows:
            raise KeyError(f"the plan has no layer {index!r}: {did_you_mean(index, rows)}")
        return rows[index]

    @property
    def binary(self) -> list[str]:
        """Names of the layers that become binary."""
        return [row.name for row in self.rows if row.binary]

    @property
    def kept_float(self) -> list[str]:
        """Names of the layers that stay float."""
        return [row.name for row in self.rows if not row.binary]

    def to_list(self) -> list[dict[str, Any]]:
        """Plain dicts, for a checkpoint or JSON; the thresholds' values are the model's to save."""
        fields = ("name", "type", "shape", "scheme", "reason", "threshold", "output_size", "warning")
        return [{f: _plain(getattr(row, f)) for f in fields} for row in self.rows]

    @classmethod
    def from_list(cls, rows: Iterable[Mapping[str, Any]]) -> "Plan":
        """The inverse of :meth:`to_list`."""
        return cls(LayerPlan(**{key: _hashable(value) for key, value in row.items()}) for row in rows)

    def __str__(self) -> str:
        header: tuple[str, ...] = ("layer", "type", "weight", "becomes", "threshold", "why", "warning")
        rows: list[tuple[str, ...]] = [
            (
                r.name or "(model)",
                r.type,
                "x".join(map(str, r.shape)),
                r.scheme or "float",
                r.threshold,
                r.reason,
                r.warning,
            )
            for r in self.rows
        ]
        if not any(r.warning for r in self.rows):
            header, rows = header[:-1], [row[:-1] for row in rows]
        table = format_table(header, rows)
        return f"{table}\n{len(self.binary)} of {len(self.rows)} layers become binary"

    def __repr__(self) -> str:
        return f"Plan({self.rows!r})"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def plan(
    model: nn.Module,
    scheme: str | Scheme | None = "xnor",
    example_input: Any = None,
    keep_float: Iterable[str | type[nn.Module]] = ("first", "last"),
    overrides: Mapping[str | type[nn.Module], str | Scheme | None] | None = None,
    min_fan_in: int = MIN_FAN_IN,
) -> Plan:
    """What :func:`prepare` would do to ``model``, which is left as it is. Arguments and errors are the same."""
    check_has_layers(model)
    attentions = split_all(model)
    try:
        return _plan(model, scheme, example_input, keep_float, overrides, min_fan_in)
    finally:
        for attention in attentions:
            join(attention)


def _plan(model: nn.Module, scheme, example_input: Any, keep_float, overrides, min_fan_in: int) -> Plan:
    """:func:`plan` of a model whose attentions call their projections."""
    if min_fan_in < 0:
        raise ValueError(f"min_fan_in is {min_fan_in}; it must be 0 (no layer is tiny) or more")
    keep_float = [keep_float] if isinstance(keep_float, (str, type)) else list(keep_float or ())
    overrides = overrides or {}
    layers = find_layers(model)
    default = None if scheme is None else get_scheme(scheme)
    chosen = Overrides(overrides, layers)
    check_agreement(keep_float, overrides)
    aside = {name: (None, why) for name, why in adapters(model, layers).items() if not chosen.names(name)}
    watched = [layer for name, layer in layers.items() if name not in aside]
    seen = None if example_input is None else observe(model, watched, example_input, channel_dim)
    kept = {**aside, **kept_float(keep_float, layers, seen, min_fan_in, without_role=aside)}
    obstacles = Obstacles(model, layers, seen)
    choices = {name: _choose(chosen, kept, obstacles, name, default) for name in layers}
    _keep_tied_together(layers, choices, chosen)
    functional = functional_weights(model, layers, seen)
    rows = []
    for name, module in model.named_modules():
        if name in layers:
            rows.append(_row(name, module, choices[name], seen, min_fan_in))
        rows += (_functional_row(name, module, *weight, model) for weight in functional.get(module, ()))
    if not any(row.binary for row in rows):
        refused = {row.name for row in rows if row.name not in layers or obstacles.of(row.name)}
        raise ValueError(_nothing_to_binarize(rows, refused))
    return Plan(rows)


def _choose(chosen: Overrides, kept: Mapping[str, Choice], obstacles: Obstacles, name: str, default) -> Choice:
    """The scheme of layer ``name`` and the reason; ValueError where its own override asks for the impossible."""
    choice = chosen.exact(name) or kept.get(name) or chosen.by_pattern(name) or (default, "scheme")
    obstacle = None if choice[0] is None else obstacles.of(name)
    return _refuse(name, choice, obstacle, chosen) if obstacle else choice


def _refuse(name: str, choice: Choice, obstacle: str, chosen: Overrides) -> Choice:
    if chosen.exact(name):
        raise ValueError(f"layer {name!r} cannot become {choice[0]}: {obstacle}")
    return None, obstacle


def _keep_tied_together(layers: Mapping[str, nn.Module], choices: dict[str, Choice], chosen: Overrides) -> None:
    """A weight that one layer uses in float is float for all of them."""
    floating = {id(layers[name].weight): name for name, (scheme, _) in choices.items() if scheme is None}
    for name, choice in choices.items():
        partner = floating.get(id(layers[name].weight))
        if choice[0] is not None and partner is not None:
            choices[name] = _refuse(name, choice, f"it shares its weight with {partner!r}, which stays float", chosen)


def _row(name: str, layer: nn.Module, choice: Choice, seen: Observation | None, min_fan_in: int) -> LayerPlan:
    scheme, reason = choice
    row = LayerPlan(name, type(layer).__name__, tuple(own_weight(layer).shape), None, reason)
    if scheme is None:
        return row
    row.scheme, row.configured = str(scheme), scheme
    row.warning = tiny(layer, seen, min_fan_in) or ""
    row.output_size = seen.output_size[layer] if seen else None
    scheme.check_output_size(row.output_size)
    sums = seen.input_sums[layer] if seen else None
    if not scheme.signed_input:
        return row
    if sums is None or not sums.any():  # nothing has come in: an expert without tokens
        row.threshold = PENDING
    else:
        row.threshold = LEARNED_FROM_ZERO if scheme.learned_threshold else ZERO
        if needs_threshold(sums):
            row.threshold, row.start = LEARNED_FROM_MEAN, _finite_start(name, sums)
    return row


def _finite_start(name: str, sums: Tensor) -> Tensor:
    start = threshold_start(sums)
    if not bool(start.isfinite().all()):
        raise ValueError(
            f"layer {name!r} gets NaN or infinite values on example_input, and no threshold can start from their mean; "
            "give an example_input on which the model computes with numbers"
        )
    return start


def _functional_row(module_name: str, module: nn.Module, name: str, weight: Tensor, model: nn.Module) -> LayerPlan:
    name, kind = f"{module_name}.{name}".lstrip("."), type(module).__name__
    reason = f"{kind} uses it without a layer that could be binary"
    if isinstance(module, torch.jit.ScriptModule):
        reason = "it is in a scripted or traced module"
    elif is_expert_tensor(module, weight):
        share = weight.numel() / sum(parameter.numel() for parameter in model.parameters())
        reason = f"the {len(weight)} experts of {kind} in one tensor, {share:.0%} of all parameters, and no layers"
    return LayerPlan(name, kind, tuple(weight.shape), None, reason)


def _nothing_to_binarize(rows: list[LayerPlan], refused: Collection[str]) -> str:
    """``refused`` are the names of the layers that cannot become binary, whatever is asked for."""
    if not rows:
        return "nothing to binarize: the model has no convolution or linear layer"
    reasons = "; ".join(f"{row.name or '(model)'}: {row.reason}" for row in rows[:4])
    return (
        f"nothing to binarize: all {len(rows)} convolution and linear layers stay float ({reasons}"
        f"{'; ...' if len(rows) > 4 else ''})"
        + ("" if all(row.name in refused for row in rows) else "; change keep_float= or overrides=")
    )
