"""Packed files: a trained network with one bit a binary weight, and all that is needed to load it without its data.

A packed file is a checkpoint (:mod:`training.checkpoint`) for inference: ``packed`` is the state_dict of what
:func:`quantize.convert` made of the model. ``arch, scheme, plan, classes, input_size, normalization, config, epoch,
acc1`` and ``versions`` are the checkpoint's. :func:`training.load_model` loads it.
"""

import dataclasses
from typing import Any

from torch import nn

import quantize
from quantize.planning.plan import LEARNED_FROM_ZERO, NO_THRESHOLD, ZERO

from .checkpoint import PACKED
from .model import example_images, rebuild

_KEPT = (
    *("arch", "scheme", "plan", "classes", "input_size", "normalization"),
    *("config", "epoch", "acc1", "versions"),
)
_NONE = (NO_THRESHOLD, ZERO)


def pack(checkpoint: dict[str, Any], path: str) -> tuple[nn.Module, dict[str, Any]]:
    """(the packed model, the contents of its file) of a checkpoint that was read from ``path``.

    Raises ValueError, in one sentence, for a float network, or one whose packed form does not load into the
    network that its name and plan make.
    """
    model = rebuild(checkpoint, path)
    packed = quantize.convert(model, example_images(checkpoint))
    contents = {key: checkpoint[key] for key in _KEPT} | {"plan": _plan_of(model, checkpoint["plan"])}
    contents[PACKED] = packed.state_dict()
    rebuild(contents, path)
    return packed, contents


def _plan_of(model: nn.Module, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with the thresholds that the layers have: weights that training started from may have brought some."""
    plan = quantize.Plan.from_list(rows)

    def actual(row: quantize.LayerPlan) -> quantize.LayerPlan:
        learned = row.binary and model.get_submodule(row.name).threshold is not None
        return dataclasses.replace(row, threshold=LEARNED_FROM_ZERO) if learned and row.threshold in _NONE else row

    return quantize.Plan(map(actual, plan)).to_list()
