"""Everything that one run holds, made from a configuration or from a checkpoint of it."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import quantize

from .checkpoint import BEST, LAST, find_checkpoint, read_checkpoint, restore_rng_state, rng_state
from .config import TrainConfig, whole_epochs
from .data import Data, load_data
from .device import select_device, set_deterministic
from .distillation import load_teacher
from .dropout import set_dropout
from .ema import WeightAverage
from .mixing import Mixing
from .model import build_model, rebuild
from .objective import Objective
from .optim import create_optimizer, create_scheduler
from .stages import Stage, stage_at

# How a run is started, not what it computes: a resumed run takes these from its own command line.
OWN_FLAGS = ("resume", "evaluate", "log_path", "gpu", "workers")
# What a resumed run may change besides.
FREE_FLAGS = ("epochs", "data_dir", "teacher", "export")


@dataclasses.dataclass
class Session:
    """A run in progress.

    Attributes:
        model: what is trained.
        teacher: what it learns from beside the labels, or None.
        run_dir: where checkpoints and logs go.
        epoch: epochs done.
        best_acc1: best test accuracy so far in percent, of the weights in ``best.pt``; None before there is one.
        average: of the model's weights, None without ``--ema``.
        mixing: what training batches go through.
        objective: the loss of training.
        optimizer, scheduler: of the stage that ``epoch`` lies in.
    """

    config: TrainConfig
    device: torch.device
    data: Data
    model: nn.Module
    plan: quantize.Plan | None
    teacher: nn.Module | None
    run_dir: Path
    epoch: int = 0
    best_acc1: float | None = None
    average: WeightAverage | None = dataclasses.field(init=False)
    mixing: Mixing = dataclasses.field(init=False)
    objective: Objective = dataclasses.field(init=False)
    optimizer: Optimizer = dataclasses.field(init=False)
    scheduler: LRScheduler = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.average = WeightAverage(self.model, self.config.ema) if self.config.ema else None
        self.mixing = Mixing(self.config, len(self.data.classes), self.device)
        self.objective = Objective(self.config, self.teacher)
        self.start_stage()

    @property
    def evaluated(self) -> nn.Module:
        """What is tested and shipped: the averaged weights where there are any."""
        return self.model if self.average is None else self.average.module

    @property
    def stage(self) -> Stage:
        """The stage of the epoch that comes next."""
        return stage_at(self.config, self.epoch)

    def start_stage(self) -> None:
        """Give the run the optimizer, the schedule and the kind of weights of its stage."""
        self.optimizer = create_optimizer(self.config, self.model, self.stage)
        self.scheduler = create_scheduler(self.config, self.optimizer, self.stage)
        for model in {self.model, self.evaluated}:
            quantize.use_float_weights(model, self.stage.float_weights)

    def checkpoint(self, acc1: float) -> dict[str, Any]:
        """The contents of a checkpoint (training/checkpoint.py lists them)."""
        config = dataclasses.asdict(self.config)
        return {
            "arch": self.config.arch,
            "scheme": self.config.effective_scheme,
            "plan": None if self.plan is None else self.plan.to_list(),
            "model": self.evaluated.state_dict(),
            "trained": None if self.average is None else self.model.state_dict(),
            "classes": self.data.classes,
            "input_size": self.data.input_size,
            "normalization": self.data.normalization._asdict(),
            "config": {name: value for name, value in config.items() if name not in OWN_FLAGS},
            "epoch": self.epoch,
            "acc1": acc1,
            "best_acc1": self.best_acc1,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": rng_state(),
            "versions": {"torch": str(torch.__version__), "xnorkit": quantize.__version__},
        }


def setup(config: TrainConfig) -> Session:
    """Data, model and optimizer of a new run, or of one that ``config.resume`` continues.

    The run directory is made last, when everything else is there. Raises ValueError or OSError, in one
    sentence, for what cannot be used.
    """
    checkpoint = None if config.resume is None else read_checkpoint(config.resume)
    run_dir = choose_run_dir(config)
    check_paths(config, run_dir)
    device = select_device(config.gpu)
    set_deterministic(config.deterministic)
    data = load_data(config, config.input_size, device)
    # Before the model, whose seed makes it the same with a teacher and without.
    teacher = None if config.teacher is None else load_teacher(config.teacher, data, device)
    model, plan = _new_model(config, data) if checkpoint is None else _saved_model(config, data, checkpoint)
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    epoch = 0 if checkpoint is None else checkpoint["epoch"]
    session = Session(config, device, data, model.to(device), plan, teacher, run_dir, epoch)
    if checkpoint is not None:
        _continue(session, checkpoint)
    make_run_dir(run_dir)
    return session


def _new_model(config: TrainConfig, data: Data) -> tuple[nn.Module, quantize.Plan | None]:
    images, _ = next(iter(data.train))
    return build_model(config, data.classes, images.cpu())


def _saved_model(config: TrainConfig, data: Data, checkpoint: dict[str, Any]) -> tuple[nn.Module, quantize.Plan | None]:
    check_same_classes(checkpoint["classes"], data.classes, config.resume)
    plan = None if checkpoint["plan"] is None else quantize.Plan.from_list(checkpoint["plan"])
    return rebuild(checkpoint, config.resume), plan


def _continue(session: Session, checkpoint: dict[str, Any]) -> None:
    if session.average is not None:  # made from the averaged weights, which the model had until here
        session.average.n_averaged.fill_(1)  # from the next step on it is a mean, not a copy
        session.model.load_state_dict(checkpoint["trained"])
    session.optimizer.load_state_dict(checkpoint["optimizer"])
    session.scheduler.load_state_dict(checkpoint["scheduler"])
    if (session.run_dir / BEST).is_file():
        session.best_acc1 = checkpoint["best_acc1"]
    restore_rng_state(checkpoint["rng"])  # last: everything above may draw


def check_same_classes(saved: list[str], found: list[str], path: str) -> None:
    """Raises ValueError where a checkpoint was trained on other classes than the data has."""
    if saved != found:
        odd = sorted(set(saved) ^ set(found)) or found
        raise ValueError(
            f"the {len(saved)} classes of {path!r} are not the {len(found)} of the data "
            f"({', '.join(odd[:5])} differ); give its own --dataset and --data-dir"
        )


def check_paths(config: TrainConfig, run_dir: Path) -> None:
    """Raises ValueError or FileNotFoundError where the run would overwrite another, or has nowhere to export to."""
    if config.resume is None and (run_dir / LAST).exists():
        path = str(run_dir)
        raise ValueError(f"{path!r} holds a run already; continue it with --resume, or choose another --log-path")
    if not config.export:
        return
    file = Path(config.export).expanduser().absolute()
    if file.is_dir():
        raise IsADirectoryError(f"--export {config.export!r} is a directory; name a file, such as {file / 'net.onnx'}")
    if file.parent != run_dir.absolute() and not file.parent.is_dir():
        folder = str(file.parent)
        raise FileNotFoundError(f"--export {config.export!r}: there is no directory {folder!r}; make it first")


def make_run_dir(path: Path) -> None:
    """Make ``path`` a directory. Raises OSError, in one sentence, where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{str(path)!r} cannot be made a run directory ({error.strerror}); choose another --log-path"
        ) from error


def choose_run_dir(config: TrainConfig) -> Path:
    """--log-path, else where the resumed checkpoint lies, else a new name under runs/."""
    if config.log_path is not None:
        return Path(config.log_path).expanduser()
    if config.resume is not None:
        return find_checkpoint(config.resume).parent
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return Path("runs") / f"{config.arch.replace('/', '_')}-{config.dataset}-{time}"


def refuse_contradictions(path: str, saved: dict[str, Any], flags: dict[str, Any]) -> None:
    """Raises ValueError for a flag that says otherwise than the configuration saved in ``path``."""
    for name, value in flags.items():
        if saved[name] != value:
            raise ValueError(
                f"--{name.replace('_', '-')} {value} contradicts {path!r}, which was trained with {saved[name]}; "
                "leave it out, or start a new run from these weights with --pretrained"
            )


def config_from_flags(flags: dict[str, Any]) -> TrainConfig:
    """The configuration of the flags given; with ``resume``, on top of the checkpoint's own.

    Raises ValueError for flags that contradict the checkpoint, or leave nothing to train.
    """
    if "resume" not in flags:
        return TrainConfig.create(**flags)
    path = str(find_checkpoint(flags["resume"]))
    checkpoint = read_checkpoint(path)
    saved = checkpoint["config"]
    free = OWN_FLAGS + FREE_FLAGS
    if saved["lr_schedule"] != "step":  # the others are laid out over their epochs
        free = tuple(name for name in free if name != "epochs")
    given = whole_epochs(flags, flags.get("epochs", saved["epochs"]))
    refuse_contradictions(path, saved, {name: value for name, value in given.items() if name not in free})
    config = TrainConfig.create(**{**saved, **flags})
    if checkpoint["epoch"] >= config.epochs:
        raise ValueError(f"{path!r} has all {config.epochs} epochs; nothing is left to train")
    return config
