"""What a checkpoint holds, entry by entry; what was read is compared with this once, where a file is opened.

Everything is tensors and plain Python values, so that ``torch.load(weights_only=True)`` reads it.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from torch import Tensor

from .config import TrainConfig
from .structure import mismatch


class Normalization(TypedDict):
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _PlanRow(TypedDict):
    name: str
    type: str
    shape: tuple[int, ...]
    scheme: str | None
    reason: str


class PlanRow(_PlanRow, total=False):
    """A :class:`quantize.LayerPlan`."""

    threshold: str
    output_size: tuple[int, ...] | None
    warning: str


class _Random(TypedDict):
    python: tuple[int, tuple[int, ...], float | None]
    cpu: Tensor


class Random(_Random, total=False):
    """The random state of a process."""

    cuda: list[Tensor]
    mps: Tensor


class Meter(TypedDict):
    """The sums so far of a process."""

    loss_sum: float
    correct: float
    images: int
    seconds: float
    load_seconds: float


class Partial(TypedDict):
    """Of the epoch that a checkpoint lies in (--checkpoint-every)."""

    images: int  # that are done
    random_state: Tensor  # of what shifts the next ones
    meters: list[Meter]
    signs: dict[str, Tensor]  # of the binary weights at the end of the epoch before


class _Optimizer(TypedDict):
    state: dict[int, dict[str, Tensor | float | None]]
    param_groups: list[dict[str, Any]]


class Optimizer(_Optimizer, total=False):
    kept: int  # how many parameters have a state: those that have had a gradient; older versions have not said


class _Contents(TypedDict):
    format: int  # 1
    arch: str
    scheme: str | None  # what was trained
    plan: list[PlanRow] | None  # which layers are binary; None: a float network
    classes: list[str]  # in the order of the labels
    input_size: tuple[int, int, int]  # channels, height, width
    normalization: Normalization
    config: dict[str, Any]  # the run's configuration
    epoch: int  # epochs done
    acc1: float | None  # test accuracy in percent, with float weights in the first of two stages; None within an epoch
    versions: dict[str, str]  # of torch and xnorkit


class Contents(_Contents, total=False):
    """A checkpoint has ``model``, a packed file ``packed``, and only a ``last.pt`` what stands behind them."""

    model: dict[str, Tensor]  # the state_dict, of the averaged weights in a run with --ema
    packed: dict[str, Any]  # the state_dict of what quantize.convert made of the model
    best_acc1: float | None  # None in the first of two stages
    trained: dict[str, Tensor] | None  # the weights that a run with --ema goes on with
    optimizer: Optimizer
    scheduler: dict[str, Any]  # of older versions, whose learning rate changed once an epoch
    scaler: dict[str, float]  # of gradients, for --amp fp16
    rng: list[Random] | Random  # of each process; older versions have written that of the only one
    partial: Partial | None


def problem(contents: Any) -> str | None:
    """What is wrong with the contents of a checkpoint or packed file, in words; None where nothing is."""
    return mismatch(contents, Contents) or next(_inconsistencies(contents), None)


def _inconsistencies(contents: dict[str, Any]) -> Iterator[str]:
    size, normalization = contents["input_size"], contents["normalization"]
    mean, std = normalization["mean"], normalization["std"]
    if "model" not in contents and "packed" not in contents:
        yield " has no weights"
    if contents["epoch"] < 0 or not contents["classes"] or min(size) < 1:
        yield " has a negative epoch, no classes, or an empty input size"
    if not len(mean) == len(std) == size[0] or min(std) <= 0 or not all(map(math.isfinite, (*mean, *std))):
        yield f" has the normalization {normalization}, which is none of {size[0]} channels"
    plan, known = contents["plan"] or (), PlanRow.__annotations__
    if unknown := {key for row in plan for key in row} - known.keys():
        yield f" has a plan with {sorted(map(str, unknown))[0]!r}, which this version does not know"
    if len({row["name"] for row in plan}) < len(plan):
        yield " has a plan with a layer twice"
    types = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    for name, value in contents["config"].items():
        if wrong := name in types and mismatch(value, types[name]):
            yield f"['config'][{name!r}]{wrong}"
    if not all(map(_is_plain, tensors_in(contents))):
        yield " has a tensor that is no plain array of real numbers"


def required_flags() -> list[str]:
    """What the configuration of every run has; the other fields have come later, or have a default."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(TrainConfig) if f.default is missing and f.default_factory is missing]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors of nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from tensors_in(item)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_complex() or tensor.is_quantized)
