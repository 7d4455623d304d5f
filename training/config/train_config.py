"""The configuration of a run, and how flags make one."""

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import quantize
from quantize.words import did_you_mean

from ..data import get_augmentation
from ..execution import PRECISIONS
from ..optimizer import LR_SCHEDULES, OPTIMIZERS
from ..schedule import stage_at, stages_of
from .defaults import (
    ARCH,
    DATASET,
    DATASET_CHANGES,
    default_flags,
    default_recipe,
    effective_scheme,
    input_size,
    read_recipe,
)
from .flags import make_parser


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One field a flag, with the flag's meaning (``trainer_exp.py --help``); made by :meth:`create`."""

    arch: str
    dataset: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    lr_schedule: str
    milestones: tuple[int, ...]
    augment: str
    keep_float: tuple[str, ...]
    clip_weights: float
    recipe: str | None = None
    gamma: float = 0.1
    momentum: float = 0.9
    warmup_epochs: int = 0
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    random_erasing: float = 0.0
    dropout: float | None = None
    stage1_epochs: int = 0
    teacher: str | None = None
    distill_weight: float = 1.0
    ema: float = 0.0
    amp: str | None = None
    compile: bool = False
    channels_last: bool = False
    accumulate: int = 1
    scheme: str | None = None
    overrides: dict[str, str | None] = dataclasses.field(default_factory=dict)
    data_dir: str = "data"
    img_size: int | None = None
    normalize: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    skip_corrupt: bool = False
    workers: int = min(4, os.cpu_count() or 1)
    gpu: str | None = None
    seed: int = 0
    deterministic: bool = False
    pretrained: str | None = None
    log_path: str | None = None
    checkpoint_every: int = 0
    resume: str | None = None
    evaluate: str | None = None
    export: str | None = None
    export_format: str = "packed"

    @classmethod
    def create(cls, **given: Any) -> "TrainConfig":
        """A checked configuration from the flags that are given.

        The others are those of the recipe that is given; else those of the network's own recipe, changed for the
        dataset. Shares of the epochs become numbers of epochs. Raises ValueError for a value that cannot be used.
        """
        flags = {"arch": ARCH, "dataset": DATASET, "recipe": None} | given
        arch, dataset, recipe = (flags[key] for key in ("arch", "dataset", "recipe"))
        suited = default_flags(arch, dataset, given.get("img_size"), given.get("scheme"))
        recipe_flags = parse_flags(read_recipe(recipe or default_recipe(arch)))
        if flags.get("lr_schedule") not in (None, recipe_flags["lr_schedule"]):
            recipe_flags.pop("gamma", None)  # over all epochs or a milestone: it suits its own schedule alone
        changes = DATASET_CHANGES.get(dataset, {}) if recipe is None else {}
        flags = {**suited, **recipe_flags, **changes, **flags}
        config = cls(**whole_epochs(flags, flags["epochs"]))
        config.check()
        return config

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's images."""
        return input_size(self.arch, self.dataset, self.img_size)

    @property
    def effective_scheme(self) -> str | None:
        """The scheme of ``--scheme``, else the one the network's name ends in; None for float."""
        return effective_scheme(self.arch, self.scheme)

    def check(self) -> None:
        """Raises ValueError for the first value that cannot be used."""
        from ..objective import LOSSES  # which imports this package

        _check_numbers(self)
        named = {"optimizer": OPTIMIZERS, "lr_schedule": LR_SCHEDULES, "loss": LOSSES, "amp": (None, *PRECISIONS)}
        for field, valid in named.items():
            value = getattr(self, field)
            if value not in valid:
                valid = [name for name in valid if name is not None]
                raise ValueError(f"unknown {flag_name(field)} {value!r}: {did_you_mean(value, valid)}")
        get_augmentation(self.augment)
        for scheme in (self.effective_scheme, *self.overrides.values()):
            if scheme is not None:
                quantize.get_scheme(scheme)
        _check_stages(self)
        if self.export_format != "packed":
            _check_export(self)
        if self.teacher is None and self.distill_weight != 1:
            raise ValueError(f"--distill-weight {self.distill_weight} has no meaning without --teacher")


def flag_name(field: str) -> str:
    """The flag that fills a field."""
    return "--override" if field == "overrides" else f"--{field.replace('_', '-')}"


def _check_export(config: TrainConfig) -> None:
    from quantize.export.formats import FORMATS  # only here: it loads onnx

    if config.export_format not in FORMATS:
        raise ValueError(
            f"unknown --export-format {config.export_format!r}: {did_you_mean(config.export_format, FORMATS)}"
        )
    if config.export is None:
        raise ValueError(f"--export-format {config.export_format} has no meaning without --export")


def _check_numbers(config: TrainConfig) -> None:
    not_negative = (
        "workers",
        "weight_decay",
        "momentum",
        "gamma",
        "clip_weights",
        "warmup_epochs",
        "mixup",
        "checkpoint_every",
    )
    for field, least in {"epochs": 1, "batch_size": 1, "accumulate": 1, **dict.fromkeys(not_negative, 0)}.items():
        value = getattr(config, field)
        if not least <= value < math.inf:
            finite = ", and finite" if isinstance(value, float) else ""
            raise ValueError(f"{flag_name(field)} is {value}; it must be at least {least}{finite}")
    for field in ("label_smoothing", "random_erasing", "distill_weight"):
        if not 0 <= getattr(config, field) <= 1:
            raise ValueError(f"{flag_name(field)} is {getattr(config, field)}; it must lie between 0 and 1")
    if not 0 <= config.ema < 1:
        raise ValueError(f"--ema is {config.ema}; it must be at least 0 and below 1, mostly 0.99 to 0.9999")
    if config.dropout is not None and not 0 <= config.dropout < 1:
        raise ValueError(f"--dropout is {config.dropout}; it must be at least 0 and below 1")
    if not 0 < config.lr < math.inf:
        raise ValueError(f"--lr is {config.lr}; it must be positive, and finite")
    if config.img_size is not None and config.img_size < 1:
        raise ValueError(f"--img-size is {config.img_size}; it must be at least 1")
    if not -(2**63) <= config.seed < 2**63:
        raise ValueError(f"--seed is {config.seed}; it must fit into 64 bits, from -2**63 to 2**63 - 1")
    if list(config.milestones) != sorted(set(config.milestones) - {0}):  # after 0 epochs there is no rate to change
        raise ValueError(f"--milestones {' '.join(map(str, config.milestones))} must rise, from 1 or more")


def _check_stages(config: TrainConfig) -> None:
    first = config.stage1_epochs
    if not 0 <= first < config.epochs:
        raise ValueError(f"--stage1-epochs is {first}; it must be at least 0 and below the {config.epochs} --epochs")
    if first and config.effective_scheme is None and not config.overrides:
        raise ValueError(f"--stage1-epochs {first} needs binary layers, and {config.arch!r} has none; give a --scheme")
    shortest = min(stage.epochs for stage in stages_of(config))
    if config.warmup_epochs >= shortest:
        where = "a stage has" if first else "the run has"
        raise ValueError(f"--warmup-epochs is {config.warmup_epochs}; it must be below the {shortest} epochs {where}")
    for milestone in config.milestones if config.lr_schedule == "step" and config.warmup_epochs else ():
        if milestone <= stage_at(config, milestone).start + config.warmup_epochs:
            raise ValueError(f"--milestones {milestone} lies within the {config.warmup_epochs} --warmup-epochs")


def whole_epochs(flags: dict[str, Any], epochs: int) -> dict[str, Any]:
    """``flags`` with what is a share of the epochs as a number of epochs."""

    def whole(value: int | float) -> int:
        return round(value * epochs) if isinstance(value, float) else value

    changed = {"stage1_epochs": whole(flags["stage1_epochs"])} if "stage1_epochs" in flags else {}
    if any(isinstance(value, float) for value in flags.get("milestones", ())):  # few epochs make shares coincide
        changed["milestones"] = tuple(epoch for epoch in dict.fromkeys(map(whole, flags["milestones"])) if epoch)
    return {**flags, **changed}


def parse_flags(argv: Sequence[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """The flags that are given, lists as tuples; exits with code 2 for flags that cannot be parsed."""
    flags = vars(make_parser(description).parse_args(sys.argv[1:] if argv is None else argv))
    if "milestones" in flags:
        flags.setdefault("lr_schedule", "step")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
