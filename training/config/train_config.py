"""The configuration of a run: every flag, declared once."""

import dataclasses
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from ..schedule import LR_SCHEDULES, stage_at, stages_of
from ..structure import mismatch
from .defaults import (
    ARCH,
    DATASET,
    DATASET_CHANGES,
    NETWORKS,
    default_flags,
    default_recipe,
    effective_scheme,
    input_size,
    list_recipes,
    list_schemes,
    read_recipe,
)
from .flags import (
    BELOW_1,
    IN_64_BITS,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Rule,
    at_least,
    check_all,
    did_you_mean,
    flag,
    flags_of,
    parser_of,
)
from .imports import import_files


def epochs_or_share(text: str) -> int | float:
    """A number of epochs, or a share of them above 0 and below 1."""
    try:
        value = int(text) if text.isdigit() else float(text)
    except ValueError:
        value = -1
    if isinstance(value, float) and not 0 < value < 1 or value < 0:
        raise ArgumentTypeError(f"{text!r} is neither a number of epochs nor a share between 0 and 1")
    return value


def number(text: str) -> int | float:
    """Whole where it is written so."""
    return int(text) if text.isdigit() else float(text)


_network, _data, _training, _more, _speed, _run = (
    partial(flag, group)
    for group in ("network", "data", "training", "loss, stages, averages", "speed and memory", "run")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One field a flag, made by :meth:`create`. What has no default here follows network, recipe and data."""

    arch: str = _network(f"{', '.join(NETWORKS)}, <arch>_xnornet, <arch>_<scheme>, timm/<name>", default=ARCH)
    scheme: str | None = _network(
        f"{', '.join(list_schemes())}, with options as in xnor:center=false; none", default=None
    )
    keep_float: tuple[str, ...] = _network("first last, mostly", many="*", metavar="LAYER")
    overrides: dict[str, str | None] = _network(
        "of one layer, or of those that a regular expression matches; PATTERN=none: float; or a .json file of "
        "quantize.search",
        name="--override",
        metavar="PATTERN=SCHEME",
        default_factory=dict,
    )
    pretrained: str | None = _network(
        "weights to start from: of a file, or the dataset of a trained network that comes with the package; alone: "
        "timm's own",
        metavar="CHECKPOINT",
        alone="timm",
        default=None,
    )

    whiten: bool = _network(
        "start with first filters that whiten patches of the training images (1 / sqrt(eigenvalue + 0.0005))",
        default=False,
    )
    imports: tuple[str, ...] = _network(
        "Python files to run first, which register networks, schemes or layers of your own",
        name="--import",
        many="+",
        metavar="FILE",
        default=(),
        resume="own",
    )

    dataset: str = _data(
        choices=("digits", "mnist", "fashionmnist", "cifar10", "cifar100", "svhn", "imagefolder"),
        noun="dataset",
        default=DATASET,
    )
    data_dir: str = _data("where the set lies, or is downloaded to", metavar="DIR", default="data", resume="free")
    img_size: int | None = _data("the network's own where left out", metavar="PIXELS", rule=at_least(1), default=None)
    normalize: str | None = _data(
        "the set's own where left out",
        choices=("none", "half", "digits", "mnist", "fashionmnist", "cifar10", "cifar100", "svhn", "imagenet"),
        metavar="PRESET",
        noun="normalization",
        default=None,
    )
    mean: tuple[float, ...] = _data("with --std instead of a preset, for pixels in 0 to 1", default=())
    std: tuple[float, ...] = _data("with --mean", default=())
    augment: str = _data(choices=("none", "shift", "crop_flip", "crop_alternate", "resized_crop"), noun="augmentation")
    start_size: int | None = _data(
        "of training images at the start; they grow to full size in the first half of the run",
        metavar="PIXELS",
        rule=Rule(lambda value: value > 0 and value % 4 == 0, "be a multiple of 4"),
        default=None,
    )
    skip_corrupt: bool = _data("leave pictures out that cannot be read", default=False, resume="free")
    workers: int = _data(
        "processes that decode a set too large for memory; one a core and at most 4 where left out",
        "-j",
        rule=at_least(0),
        default_factory=lambda: min(4, os.cpu_count() or 1),
        resume="own",
    )

    recipe: str | None = _training(
        "in training/recipes/; the network's own where left out",
        choices=tuple(list_recipes()),
        metavar="NAME",
        noun="recipe",
        default=None,
    )
    epochs: int = _training("passes over the training set", rule=at_least(1), resume="free")
    batch_size: int = _training("of each process; all together: x processes x --accumulate", "-b", rule=at_least(1))
    optimizer: str = _training(choices=("adam", "adamw", "rmsprop", "sgd"))
    lr: float = _training("the highest learning rate", rule=POSITIVE)
    momentum: float = _training("of sgd and rmsprop", rule=NOT_NEGATIVE, default=0.9)
    nesterov: bool = _training("of sgd: the gradient where its momentum leads", default=False)
    norm_bias_rate: float = _training(
        "learning rate of batch norm's biases, as a multiple of the others'",
        metavar="FACTOR",
        rule=POSITIVE,
        default=1.0,
    )
    weight_decay: float = _training("of weights; scales, thresholds and norms have none", "--wd", rule=NOT_NEGATIVE)
    clip_weights: float = _training("of latent weights; 0: none", metavar="LIMIT", rule=NOT_NEGATIVE)
    lr_schedule: str = _training(choices=LR_SCHEDULES)
    milestones: tuple[int, ...] = _training(
        "of step, which it implies; below 1: a share of the epochs",
        "--schedule",
        metavar="EPOCH",
        parse=epochs_or_share,
    )
    gamma: float = _training(
        "factor of the learning rate at a milestone; of exponential: over all epochs", rule=NOT_NEGATIVE, default=0.1
    )
    warmup_epochs: float = _training(
        "in which the learning rate rises, before the schedule falls; may be a fraction",
        metavar="N",
        rule=NOT_NEGATIVE,
        parse=number,
        default=0,
    )
    seed: int = _training("of first weights, order of images, augmentation", rule=IN_64_BITS, default=0)
    deterministic: bool = _training("bit-exact on a GPU too, at some cost", default=False)

    loss: str = _more(choices=("cross_entropy", "squared_hinge"), default="cross_entropy")
    label_smoothing: float = _more("of a label, over all classes", metavar="SHARE", rule=SHARE, default=0.0)
    mixup: float = _more("of the Beta distribution; 0: none", metavar="ALPHA", rule=NOT_NEGATIVE, default=0.0)
    random_erasing: float = _more("probability of an image", metavar="P", rule=SHARE, default=0.0)
    dropout: float | None = _more(
        "of dropout layers; the network's own where left out", metavar="SHARE", rule=BELOW_1, default=None
    )
    stage1_epochs: int = _more(
        "with float weights, first; below 1: a share of all", metavar="N", parse=epochs_or_share, default=0
    )
    teacher: str | None = _more(
        "a trained network to learn from, or CHECKPOINT", metavar="ARCH:CHECKPOINT", default=None, resume="free"
    )
    distill_weight: float = _more("of the teacher in the loss", metavar="SHARE", rule=SHARE, default=1.0)
    ema: float = _more(
        "evaluate an average of the weights, mostly 0.99 to 0.9999; 0: none",
        metavar="DECAY",
        rule=BELOW_1,
        default=0.0,
    )
    flip_test: bool = _more(
        "tests also with the mean of the outputs for an image and for its mirror image", default=False, resume="free"
    )
    norm_images: int = _more(
        "training images that batch norm's statistics are estimated from before each test, mostly 2048; 0: running "
        "averages",
        metavar="N",
        rule=at_least(0),
        default=0,
        resume="free",
    )

    amp: str | None = _speed(
        "the network computes in 16 bits where that is safe", choices=("bf16", "fp16"), default=None
    )
    compile: bool = _speed("with torch.compile; the first steps take long", default=False, resume="free")
    channels_last: bool = _speed("images and filters lie in memory as NHWC", default=False)
    accumulate: int = _speed("batches to an update of the weights", metavar="STEPS", rule=at_least(1), default=1)

    gpu: str | None = _run(
        "index of the CUDA device, mps, or cpu; a GPU where there is one", default=None, resume="own"
    )
    log_path: str | None = _run(
        "runs/<arch>-<dataset>-<time> where left out", metavar="DIR", default=None, resume="own"
    )
    checkpoint_every: int = _run(
        "also within an epoch; 0: only at its end", metavar="STEPS", rule=at_least(0), default=0, resume="free"
    )
    resume: str | None = _run(
        "a checkpoint or run directory to continue exactly", metavar="CHECKPOINT", default=None, resume="own"
    )
    evaluate: str | None = _run(
        "test a checkpoint, that of --resume or --pretrained where none is named, and train nothing; --valuate alone: "
        "train, and test after each epoch, as always",
        "--valuate",
        metavar="CHECKPOINT",
        alone="",
        default=None,
        resume="own",
    )
    export: str | None = _run(
        "ONNX of the best checkpoint; alone: model.onnx", metavar="FILE", alone="", default=None, resume="free"
    )
    export_format: str = _run(choices=("packed", "standard", "int8", "qonnx"), metavar="NAME", default="packed")

    @classmethod
    def create(cls, **given: Any) -> "TrainConfig":
        """A checked configuration from the flags that are given.

        The others are those of the recipe that is given; else those of the network's own recipe, changed for the
        dataset. Shares of the epochs become numbers of epochs. Raises ValueError for a value that cannot be used.
        """
        _check_types(given)
        check_all(cls, given)
        import_files(given.get("imports", ()))
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        flags = {"arch": ARCH, "dataset": DATASET, "recipe": None} | given
        arch, dataset, recipe = (flags[key] for key in ("arch", "dataset", "recipe"))
        suited = default_flags(arch, dataset, given.get("img_size"), given.get("scheme"))
        recipe_flags = parse_flags(read_recipe(recipe or default_recipe(arch)))
        if flags.get("lr_schedule") not in (None, recipe_flags["lr_schedule"]):
            recipe_flags.pop("gamma", None)  # over all epochs or a milestone: it suits its own schedule alone
        changes = DATASET_CHANGES.get(dataset, {}) if recipe is None else {}
        flags = {**suited, **recipe_flags, **changes, **flags}
        config = cls(**whole_epochs(flags, flags["epochs"]))
        config.check(given)
        return config

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's images."""
        return input_size(self.arch, self.dataset, self.img_size)

    @property
    def effective_scheme(self) -> str | None:
        """The scheme of ``--scheme``, else the one the network's name ends in; None for float."""
        return effective_scheme(self.arch, self.scheme)

    def check(self, given: Collection[str] = ()) -> None:
        """Raises ValueError for the first value that cannot be used; those not ``given`` are of a recipe."""
        import quantize

        check_all(type(self), vars(self))
        if list(self.milestones) != sorted(set(self.milestones) - {0}):  # after 0 epochs there is no rate to change
            raise ValueError(f"--milestones {' '.join(map(str, self.milestones))} must rise, from 1 or more")
        for scheme in (self.effective_scheme, *self.overrides.values()):
            if scheme is not None:
                quantize.get_scheme(scheme)
        _check_stages(self, given)
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            needs = f"the --optimizer is {self.optimizer}, its --momentum {self.momentum:g}"
            raise ValueError(f"--nesterov needs --optimizer sgd and a --momentum above 0; {needs}; leave it out")
        if self.whiten and self.pretrained is not None:
            raise ValueError(f"--whiten replaces filters of --pretrained {self.pretrained}; give one of them")
        _, height, width = self.input_size
        if self.start_size is not None and not self.start_size < height == width:
            raise ValueError(
                f"--start-size is {self.start_size}; it must be below the size of the images, {height}x{width} pixels, "
                "which must be square"
            )
        if self.export_format != "packed" and self.export is None:
            raise ValueError(f"--export-format {self.export_format} has no meaning without --export")
        if self.teacher is None and self.distill_weight != 1:
            raise ValueError(f"--distill-weight {self.distill_weight} has no meaning without --teacher")


def flag_name(field: str) -> str:
    """The flag that fills a field."""
    return next(flag.name for known, flag in flags_of(TrainConfig) if known.name == field)


def _check_types(given: dict[str, Any]) -> None:
    """Raises ValueError for what is no flag, or has another type."""
    types = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    types |= {"milestones": tuple[float, ...], "stage1_epochs": float}  # shares, which become whole numbers
    for name, value in given.items():
        if name not in types:
            raise ValueError(f"unknown flag {name!r}: {did_you_mean(name, types)}")
        if wrong := mismatch(value, types[name]):
            raise ValueError(f"{flag_name(name)}{wrong}")


def _check_stages(config: TrainConfig, given: Collection[str]) -> None:
    def named(field: str) -> str:
        return flag_name(field) if field in given else f"{field.replace('_', ' ')} of the recipe"

    first, warmup = config.stage1_epochs, config.warmup_epochs
    if not 0 <= first < config.epochs:
        raise ValueError(f"--stage1-epochs is {first}; it must be at least 0 and below the {config.epochs} --epochs")
    if first and config.effective_scheme is None and not config.overrides:
        needs = f"{named('stage1_epochs')} {first} needs binary layers"
        raise ValueError(f"{needs}, and {config.arch!r} has none; give a --scheme")
    shortest = min(stage.epochs for stage in stages_of(config))
    if warmup >= shortest:
        where = "a stage has" if first else "the run has"
        raise ValueError(f"{named('warmup_epochs')} is {warmup}; it must be below the {shortest} epochs {where}")
    for milestone in config.milestones if config.lr_schedule == "step" and warmup else ():
        if milestone <= stage_at(config, milestone).start + warmup:
            within = f"lies within the {warmup} {named('warmup_epochs')}"
            raise ValueError(f"{named('milestones')} {milestone} {within}")


def whole_epochs(flags: dict[str, Any], epochs: int) -> dict[str, Any]:
    """``flags`` with what is a share of the epochs as a number of epochs."""

    def whole(value: int | float) -> int:
        return round(value * epochs) if isinstance(value, float) else value

    changed = {"stage1_epochs": whole(flags["stage1_epochs"])} if "stage1_epochs" in flags else {}
    if any(isinstance(value, float) for value in flags.get("milestones", ())):  # few epochs make shares coincide
        changed["milestones"] = tuple(epoch for epoch in dict.fromkeys(map(whole, flags["milestones"])) if epoch)
    return {**flags, **changed}


def make_parser(description: str | None = None, argv: Sequence[str] = ()) -> ArgumentParser:
    """The flags of a run; where an error names one, in the spelling of ``argv``."""
    return parser_of(TrainConfig, description, argv)


def parse_flags(argv: Sequence[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """The flags that are given, lists as tuples; exits with code 2 for flags that cannot be parsed.

    Raises ValueError for a value that its flag does not take. Names of networks and schemes, which anybody can add
    to, are looked up by :meth:`TrainConfig.create`.
    """
    argv = sys.argv[1:] if argv is None else argv
    flags = vars(make_parser(description, argv).parse_args(argv))
    if "milestones" in flags:
        flags.setdefault("lr_schedule", "step")
    check_all(TrainConfig, flags)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
