"""The dry run: which layers become binary, which stay float, and why."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from .layers import FLOAT_CLASSES, BinaryLayer, binary_class, channel_dim
from .observe import Observation, observe
from .scheme import Scheme, get_scheme
from .selection import Overrides, matching_names
from .table import format_table

# A signed input needs a threshold when its sign says nothing: when this share of it, or less, is negative.
CONSTANT_SIGN_SHARE = 0.0

# Threshold column of a plan.
NO_THRESHOLD, ZERO = "-", "0"
LEARNED_FROM_ZERO, LEARNED_FROM_MEAN = "learned from 0", "learned from the input's mean"
PENDING = "set by the first training batch"


@dataclasses.dataclass
class LayerPlan:
    """One layer of a :class:`Plan`.

    Attributes:
        name: the layer's name in the model ("" for the model itself).
        type: its class name.
        shape: of its weight.
        scheme: the scheme in command-line form, or None where the layer stays float.
        reason: why.
        threshold: "-" (its scheme does not compare), "0", or where a learned threshold starts.
        output_size: spatial size of its output on the example input, where there was one.
        start: the learned threshold's first values, shape (input channels,), where they are known.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    scheme: str | None
    reason: str
    threshold: str = NO_THRESHOLD
    output_size: tuple[int, ...] | None = None
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
        if isinstance(index, str):
            return {row.name: row for row in self.rows}[index]
        return self.rows[index]

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
        fields = ("name", "type", "shape", "scheme", "reason", "threshold", "output_size")
        return [{f: _plain(getattr(row, f)) for f in fields} for row in self.rows]

    @classmethod
    def from_list(cls, rows: Iterable[Mapping[str, Any]]) -> "Plan":
        """The inverse of :meth:`to_list`."""
        return cls(LayerPlan(**{key: _hashable(value) for key, value in row.items()}) for row in rows)

    def __str__(self) -> str:
        rows = [
            (r.name or "(model)", r.type, "x".join(map(str, r.shape)), r.scheme or "float", r.threshold, r.reason)
            for r in self.rows
        ]
        table = format_table(("layer", "type", "weight", "becomes", "threshold", "why"), rows)
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
) -> Plan:
    """What :func:`prepare` would do to ``model``, which is left as it is. Arguments and errors are the same."""
    layers = find_layers(model)
    seen = None
    if example_input is not None:
        seen = observe(model, layers.values(), example_input, channel_dim)
    default = None if scheme is None else get_scheme(scheme)
    chosen = Overrides(overrides or {}, layers)
    kept = _kept_float([keep_float] if isinstance(keep_float, (str, type)) else keep_float, layers, seen)
    rows = []
    for name, layer in layers.items():
        configured, reason = chosen.exact(name) or kept.get(name) or chosen.by_pattern(name) or (default, "scheme")
        obstacle = _obstacle(model, name, layer, seen)
        if obstacle and configured is not None:
            if chosen.exact(name):
                raise ValueError(f"layer {name!r} cannot become {configured}: {obstacle}")
            configured, reason = None, obstacle
        rows.append(_row(name, layer, configured, reason, seen))
    if not any(row.binary for row in rows):
        raise ValueError(_nothing_to_binarize(rows))
    return Plan(rows)


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolution and linear layers of ``model`` by name, a shared one once.

    Raises ValueError for a layer that is binary already, or lazy and without a shape.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer):
            raise ValueError(f"layer {name!r} is binary already; quantize.restore(model) gives the float model back")
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
            raise ValueError(f"layer {name!r} is lazy and has no shape yet; run the model once, then prepare it")
        if binary_class(module) is None:
            continue
        found[name] = module
    return found


def _kept_float(keep_float, layers: dict[str, nn.Module], seen: Observation | None) -> dict[str, tuple[None, str]]:
    kept: dict[str, tuple[None, str]] = {}
    for entry in keep_float:
        if entry == "first":
            chosen = [n for n, m in layers.items() if m in seen.first] if seen else list(layers)[:1]
            reason = "first layer"
        elif entry == "last":
            chosen = [n for n, m in layers.items() if m in seen.last] if seen else list(layers)[-1:]
            reason = "last layer"
        else:
            chosen = matching_names(entry, layers, "keep_float")
            reason = "keep_float"
        for name in chosen:
            kept.setdefault(name, (None, reason))
    return kept


def _obstacle(model: nn.Module, name: str, layer: nn.Module, seen: Observation | None) -> str | None:
    """Why ``layer`` cannot become binary, or None."""
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "nn.MultiheadAttention uses its weight without calling it"
    if isinstance(parent, nn.TransformerEncoderLayer):
        return "the fused path of nn.TransformerEncoderLayer uses its weight without calling it"
    if hasattr(layer, "parametrizations"):
        return "its weight is computed by a parametrization"
    if _computes_its_own_way(layer):
        return f"{type(layer).__name__} has a forward of its own"
    if seen is not None and layer not in seen.input_mean:
        return "it did not run on the example input"
    return None


def _computes_its_own_way(layer: nn.Module) -> bool:
    """Whether the layer, by its class or itself, replaces what the binary layer would."""
    base = FLOAT_CLASSES[binary_class(layer)]
    methods = ("forward", "_conv_forward", "_output_padding")
    return any(getattr(getattr(layer, m, None), "__func__", None) is not getattr(base, m, None) for m in methods)


def _row(name, layer, scheme: Scheme | None, reason: str, seen: Observation | None) -> LayerPlan:
    row = LayerPlan(name, type(layer).__name__, tuple(layer.weight.shape), None, reason)
    if scheme is None:
        return row
    row.scheme, row.configured = str(scheme), scheme
    row.output_size = seen.output_size[layer] if seen else None
    scheme.check_output_size(row.output_size)
    if scheme.signed_input and seen is None:
        row.threshold = PENDING
    elif scheme.signed_input and seen.negative_share[layer] <= CONSTANT_SIGN_SHARE:
        row.threshold, row.start = LEARNED_FROM_MEAN, seen.input_mean[layer]
    elif scheme.signed_input:
        row.threshold = LEARNED_FROM_ZERO if scheme.learned_threshold else ZERO
    return row


def _nothing_to_binarize(rows: list[LayerPlan]) -> str:
    if not rows:
        return "nothing to binarize: the model has no convolution or linear layer"
    reasons = "; ".join(f"{row.name or '(model)'}: {row.reason}" for row in rows[:4])
    return (
        f"nothing to binarize: all {len(rows)} convolution and linear layers stay float ({reasons}"
        f"{'; ...' if len(rows) > 4 else ''}); change keep_float= or overrides="
    )
