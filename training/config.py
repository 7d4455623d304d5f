"""The configuration of a run, and the flags that make one."""

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import models
import quantize
from quantize.scheme import did_you_mean

from .data import AUGMENTATIONS, DATASETS, PRESETS, get_augmentation
from .defaults import FLOAT_SCHEMES, default_flags, effective_scheme, input_size
from .optim import LR_SCHEDULES, OPTIMIZERS


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
    gamma: float = 0.1
    momentum: float = 0.9
    scheme: str | None = None
    overrides: dict[str, str | None] = dataclasses.field(default_factory=dict)
    data_dir: str = "data"
    img_size: int | None = None
    normalize: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    workers: int = min(4, os.cpu_count() or 1)
    gpu: str | None = None
    seed: int = 0
    deterministic: bool = False
    pretrained: str | None = None
    log_path: str | None = None
    resume: str | None = None
    evaluate: str | None = None
    export: str | None = None

    @classmethod
    def create(cls, **given: Any) -> "TrainConfig":
        """A checked configuration from the flags that are given; the others take the network's defaults.

        Raises ValueError for a value that cannot be used.
        """
        names = {"arch": "nin_gc_xnornet", "dataset": "cifar10"} | given
        wanted = {key: given[key] for key in ("img_size", "scheme") if key in given}
        flags = {**default_flags(names["arch"], names["dataset"], **wanted), **names}
        if "milestones" not in given:  # the recipe's are shares of the epochs
            flags["milestones"] = tuple(sorted({round(share * flags["epochs"]) for share in flags["milestones"]} - {0}))
        config = cls(**flags)
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
        lowest = {"epochs": 1, "batch_size": 1} | dict.fromkeys(
            ("workers", "weight_decay", "momentum", "gamma", "clip_weights"), 0
        )
        for field, least in lowest.items():
            value = getattr(self, field)
            if not least <= value < math.inf:
                finite = ", and finite" if isinstance(value, float) else ""
                raise ValueError(f"--{field.replace('_', '-')} is {value}; it must be at least {least}{finite}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"--lr is {self.lr}; it must be positive, and finite")
        if self.img_size is not None and self.img_size < 1:
            raise ValueError(f"--img-size is {self.img_size}; it must be at least 1")
        for flag, value, valid in (
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--lr-schedule", self.lr_schedule, LR_SCHEDULES),
        ):
            if value not in valid:
                raise ValueError(f"unknown {flag} {value!r}: {did_you_mean(value, valid)}")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"--milestones {' '.join(map(str, self.milestones))} must rise")
        get_augmentation(self.augment)
        for scheme in (self.effective_scheme, *self.overrides.values()):
            if scheme is not None:
                quantize.get_scheme(scheme)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of argparse's page of usage."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


class _Override(argparse.Action):
    """Collect ``--override PATTERN=SCHEME`` into a dict; "none" means float."""

    def __call__(self, parser, namespace, value, option_string=None):
        pattern, equals, scheme = value.partition("=")
        if not (pattern and equals and scheme):
            parser.error(f"argument --override: {value!r} is not PATTERN=SCHEME or PATTERN=none")
        overrides = getattr(namespace, self.dest, {})
        setattr(namespace, self.dest, {**overrides, pattern: None if scheme in FLOAT_SCHEMES else scheme})


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The flags. One that is not given leaves nothing in the namespace, so that defaults can follow the network."""
    parser = _Parser(
        prog="trainer_exp.py",
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_network_flags(parser.add_argument_group("network"))
    _add_data_flags(parser.add_argument_group("data"))
    _add_training_flags(parser.add_argument_group("training (defaults: training/defaults.py)"))
    _add_run_flags(parser.add_argument_group("run"))
    return parser


def _add_network_flags(group) -> None:
    group.add_argument("--arch", help=f"{', '.join(models.list_models())}, <arch>_<scheme>, timm/<name>")
    group.add_argument(
        "--scheme", help=f"{', '.join(quantize.list_schemes())}, with options as in xnor:center=false; none"
    )
    group.add_argument("--keep-float", nargs="*", metavar="LAYER", help="default: first last, mostly")
    group.add_argument(
        "--override", dest="overrides", action=_Override, metavar="PATTERN=SCHEME", help="or PATTERN=none"
    )
    group.add_argument(
        "--pretrained", nargs="?", const="timm", metavar="CHECKPOINT", help="weights to start from; alone: timm's own"
    )


def _add_data_flags(group) -> None:
    group.add_argument("--dataset", help=", ".join(DATASETS))
    group.add_argument("--data-dir", metavar="DIR", help="default: data")
    group.add_argument("--img-size", type=int, metavar="PIXELS", help="default: the network's own")
    group.add_argument("--normalize", metavar="PRESET", help=", ".join(PRESETS))
    group.add_argument("--mean", type=float, nargs="+", help="instead of a preset, for pixels in 0 to 1")
    group.add_argument("--std", type=float, nargs="+")
    group.add_argument("--augment", help=", ".join(AUGMENTATIONS))
    group.add_argument("-j", "--workers", type=int, help="processes that decode a set too large for memory")


def _add_training_flags(group) -> None:
    group.add_argument("--epochs", type=int)
    group.add_argument("-b", "--batch-size", type=int)
    group.add_argument("--optimizer", help=", ".join(OPTIMIZERS))
    group.add_argument("--lr", type=float)
    group.add_argument("--momentum", type=float, help="of sgd and rmsprop")
    group.add_argument("--weight-decay", "--wd", type=float)
    group.add_argument("--clip-weights", type=float, metavar="LIMIT", help="of latent weights; 0: none")
    group.add_argument("--lr-schedule", help=", ".join(LR_SCHEDULES))
    group.add_argument("--milestones", "--schedule", type=int, nargs="+", metavar="EPOCH", help="implies step")
    group.add_argument("--gamma", type=float, help="factor of lr at a milestone")
    group.add_argument("--seed", type=int)
    group.add_argument("--deterministic", action="store_true", help="bit-exact on a GPU too, at some cost")


def _add_run_flags(group) -> None:
    group.add_argument("--gpu", help='index of the CUDA device, "mps", or "" for the CPU; default: one where present')
    group.add_argument("--log-path", metavar="DIR", help="default: runs/<arch>-<dataset>-<time>")
    group.add_argument("--resume", metavar="CHECKPOINT", help="a checkpoint or run directory to continue exactly")
    group.add_argument(
        "--evaluate", "--valuate", nargs="?", const="", metavar="CHECKPOINT", help="test a checkpoint, train nothing"
    )
    group.add_argument("--export", nargs="?", const="", metavar="FILE", help="ONNX of the best checkpoint; model.onnx")


def parse_flags(argv: Sequence[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """The flags that are given, lists as tuples; exits with code 2 for flags that cannot be parsed."""
    flags = vars(make_parser(description).parse_args(sys.argv[1:] if argv is None else argv))
    if "milestones" in flags:
        flags.setdefault("lr_schedule", "step")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in flags.items()}
