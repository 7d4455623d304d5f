"""The conversion: float layers to binary ones and back."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .binary.adapters import own_weight
from .binary.attention import join_float, split_all
from .binary.layers import BinaryLayer, binarize, binary_class, unbinarize
from .binary.merging import watch_merges
from .calling import copy_model
from .packed.codes.expanded import is_converted
from .planning.plan import NO_THRESHOLD, PENDING, ZERO, LayerPlan, Plan, plan
from .planning.roles import MIN_FAN_IN
from .scheme import Scheme, get_scheme


def prepare(
    model: nn.Module,
    scheme: str | Scheme | None = "xnor",
    example_input: Any = None,
    keep_float: Iterable[str | type[nn.Module]] = ("first", "last"),
    overrides: Mapping[str | type[nn.Module], str | Scheme | None] | None = None,
    inplace: bool = False,
    min_fan_in: int = MIN_FAN_IN,
) -> nn.Module:
    """A copy of ``model`` whose convolution and linear layers are binary; train it like any module.

    Args:
        model: any module. Keys and shapes of its state_dict stay, a learned ``threshold`` may come on top.
        scheme: a name (:func:`list_schemes`), ``"name:option=value,..."``, a Scheme; None: only the overrides.
        example_input: what the model is called with (a tensor; a tuple for several arguments; a dict for
            keywords), best a batch of real data. It shows which layers run first and last (each head's
            last), where a shortcut has its convolution, and which channels come with a sign that is
            constant, after a ReLU or max pooling for example: their threshold starts at their mean.
            Without it, registration order counts, and the first training batch sets the thresholds.
        keep_float: what stays float: layer names, regular expressions, layer classes, and by their part in
            the network "first" and "last", "tiny" (the layers that a plan warns of) and "downsample"
            (residual networks: a convolution of kernel 1 whose output, through normalization or pooling
            at most, is added to what other layers made of the same tensor; needs ``example_input``).
        overrides: {exact name, regular expression or layer class: scheme, or None for float}, in this order
            of precedence. Only an exact name goes before ``keep_float``.
        inplace: change ``model`` itself.
        min_fan_in: a layer whose outputs are sums over fewer weights is tiny.

    Raises:
        ValueError: unknown scheme or option; a pattern that matches no layer; a layer named in ``keep_float``
            and ``overrides``; nothing to binarize; a layer that is binary already; an ``example_input`` that
            the model does not take; without ``inplace`` a model that cannot be copied.
    """
    return apply_plan(model, plan(model, scheme, example_input, keep_float, overrides, min_fan_in), inplace)


def apply_plan(model: nn.Module, plan: Plan, inplace: bool = False) -> nn.Module:
    """Carry out a plan, one that :meth:`Plan.from_list` read from a checkpoint too.

    Raises ValueError when the plan is of another model; then nothing has changed.
    """
    rows = [row for row in plan if row.binary]
    schemes = {row.name: row.configured or get_scheme(row.scheme) for row in rows if row.scheme is not None}
    model = _checked(model, rows, inplace)
    watch_merges()
    for row in rows:
        layer = binarize(model.get_submodule(row.name), schemes[row.name], row.output_size)
        if row.threshold not in (NO_THRESHOLD, ZERO):
            start = torch.zeros(layer.input_channels) if row.start is None else row.start
            layer.start_threshold(start, pending=row.threshold == PENDING)
    join_float(model)
    return model


def _checked(model: nn.Module, rows: list[LayerPlan], inplace: bool) -> nn.Module:
    """``model`` or a copy, with attentions that call their projections.

    Raises ValueError, and changes nothing, where rows do not fit.
    """
    split_all(model)
    try:
        for row in rows:
            _check_fits(model, row)
        return model if inplace else copy_model(model, "change it itself: inplace=True")
    except ValueError:
        inplace = False
        raise
    finally:
        if not inplace:
            join_float(model)


def restore(model: nn.Module, inplace: bool = False) -> nn.Module:
    """The float model of a prepared one, with the current latent weights; its thresholds are dropped.

    Raises ValueError when no layer of ``model`` is binary, or :func:`convert` has made bits of its weights.
    """
    if is_converted(model):
        raise ValueError("nothing to restore: a converted model holds bits only; restore the model that was converted")
    if not any(isinstance(module, BinaryLayer) for module in model.modules()):
        raise ValueError("nothing to restore: no layer of the model is binary")
    model = model if inplace else copy_model(model, "change it itself: inplace=True")
    for module in list(model.modules()):
        if isinstance(module, BinaryLayer):
            unbinarize(module)
    join_float(model)
    return model


def _check_fits(model: nn.Module, row: LayerPlan) -> None:
    try:
        layer = model.get_submodule(row.name)
    except AttributeError:
        raise ValueError(f"the plan has a layer {row.name!r} that the model has not: it is of another model") from None
    if isinstance(layer, BinaryLayer) or binary_class(layer) is None:
        raise ValueError(f"the plan binarizes {row.name!r}, which is a {type(layer).__name__} in this model")
    found = tuple(own_weight(layer).shape)
    if found != row.shape:
        raise ValueError(f"the plan has shape {row.shape} for {row.name!r}, the model {found}: it is of another model")
