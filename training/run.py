"""Everything that one run holds, made from a configuration or from a checkpoint of it."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import quantize

from .checkpoint import BEST, LAST, changed, read_last, restore_rng_state, rng_state
from .config import TrainConfig
from .config.resume import OWN_FLAGS, check_same_classes
from .data import Data, Share, derive_seed, load_data
from .data.mixing import Mixing
from .execution import Execution, select_device, set_deterministic
from .model import build_model, load_weights, model_info, rebuild, set_dropout
from .objective import Objective, load_teacher
from .optimizer import WeightAverage, create_optimizer, load_optimizer, saved_optimizer
from .processes.batch_norm import synchronize_batch_norm
from .processes.distributed import gather, on_first, process_count, rank
from .processes.run_dir import make_run_dir, usable_run_dir
from .schedule import Stage, learning_rate, stage_at
from .watch.console import say
from .watch.health import FlipRates
from .whitening import WHITENED_IMAGES


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
        optimizer, execution: of the stage that ``epoch`` lies in.
        scaler: of gradients, which fp16 needs.
        flips: of the binary weights, since the last epoch.
        partial: what a checkpoint says of the epoch that it lies in; None where that epoch has not begun.
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
    execution: Execution = dataclasses.field(init=False)
    flips: FlipRates = dataclasses.field(init=False)
    partial: dict[str, Any] | None = None
    scaler: torch.amp.GradScaler = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.average = WeightAverage(self.model, self.config.ema) if self.config.ema else None
        self.mixing = Mixing(self.config, len(self.data.classes), self.device)
        self.objective = Objective(self.config, self.teacher)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.amp == "fp16")
        self.start_stage()

    @property
    def evaluated(self) -> nn.Module:
        """What is tested and shipped: the averaged weights where there are any."""
        return self.model if self.average is None else self.average.module

    @property
    def stage(self) -> Stage:
        """The stage of the epoch that comes next."""
        return stage_at(self.config, self.epoch)

    @property
    def last(self) -> Path:
        """The checkpoint that the run goes on from."""
        return self.run_dir / LAST

    def lr(self, steps: int = 0) -> float:
        """The learning rate after so many updates of the weights in the epoch that comes next."""
        epoch_steps = self.data.train.epoch_steps
        return learning_rate(self.config, self.epoch * epoch_steps + steps, epoch_steps)

    def start_stage(self) -> None:
        """Give the run the optimizer and the kind of weights of its stage."""
        self.optimizer = create_optimizer(self.config, self.model, self.stage)
        for model in {self.model, self.evaluated}:
            quantize.use_float_weights(model, self.stage.float_weights)
        # Float weights leave unused what a scheme learns beside them.
        self.execution = Execution(self.config, self.model, self.device, some_unused=self.stage.float_weights)

    def checkpoint(self, acc1: float | None, partial: dict[str, Any] | None = None) -> dict[str, Any]:
        """The contents of a checkpoint (training/checkpoint.py lists them); all processes must call it.

        ``partial``: of the epoch that it lies in. Only in the first process are the contents complete.
        """
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
            "optimizer": saved_optimizer(self.optimizer),
            "scaler": self.scaler.state_dict(),
            "rng": gather(rng_state()),
            "partial": partial,
            "versions": {"torch": str(torch.__version__), "xnorkit": quantize.__version__},
        }


def setup(config: TrainConfig) -> Session:
    """Data, model and optimizer of a new run, or of one that ``config.resume`` continues.

    The run directory is made last, when everything else is there. Raises ValueError or OSError, in one
    sentence, for what cannot be used.
    """
    checkpoint = None if config.resume is None else on_first(lambda: read_last(config.resume))
    run_dir = on_first(lambda: usable_run_dir(config))
    device = select_device(config.gpu)
    set_deterministic(config.deterministic)
    share = Share(rank(), process_count(), config.accumulate)
    data = load_data(config, config.input_size, device, share=share)
    # Before the model, whose seed makes it the same with a teacher and without.
    teacher = None if config.teacher is None else load_teacher(config.teacher, data, device)
    model, plan = _new_model(config, data) if checkpoint is None else _saved_model(config, data, checkpoint)
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    model = model.to(device, memory_format=torch.channels_last if config.channels_last else torch.preserve_format)
    random.seed(derive_seed(config.seed, rank()))
    if process_count() > 1:
        synchronize_batch_norm(model, config.compile)
        torch.manual_seed(derive_seed(config.seed, rank()))  # each drops and draws something else
    epoch = 0 if checkpoint is None else checkpoint["epoch"]
    session = Session(config, device, data, model, plan, teacher, run_dir, epoch)
    if checkpoint is not None:
        _continue(session, checkpoint)
    session.flips = FlipRates(session.model.eval())
    if session.partial is not None:
        session.flips.bits = {name: bits.to(device) for name, bits in session.partial["signs"].items()}
    on_first(lambda: make_run_dir(run_dir))
    return session


def _new_model(config: TrainConfig, data: Data) -> tuple[nn.Module, quantize.Plan | None]:
    images = on_first(lambda: next(iter(data.train))[0].cpu())  # all must find the same plan
    sample = data.train.sample(WHITENED_IMAGES) if config.whiten else ()
    return build_model(config, data.classes, images, sample)


def _saved_model(config: TrainConfig, data: Data, checkpoint: dict[str, Any]) -> tuple[nn.Module, quantize.Plan | None]:
    check_same_classes(checkpoint["classes"], data.classes, config.resume)
    found = model_info(checkpoint, Path(config.resume))
    saved = found.arch, found.scheme, found.input_size, found.normalization
    asked = config.arch, config.effective_scheme, data.input_size, data.normalization
    if saved != asked:
        raise changed(config.resume, f" has the network and images {saved}, its configuration {asked}")
    plan = None if checkpoint["plan"] is None else quantize.Plan.from_list(checkpoint["plan"])
    return rebuild(checkpoint, config.resume), plan


def _continue(session: Session, checkpoint: dict[str, Any]) -> None:
    path = str(session.config.resume)
    if session.average is not None:  # made from the averaged weights, which the model had until here
        session.average.n_averaged.fill_(1)  # from the next step on it is a mean, not a copy
        if checkpoint.get("trained") is None:
            raise changed(path, " has no 'trained', the weights that a run with --ema goes on with")
        load_weights(session.model, checkpoint["trained"], path)
    load_optimizer(session.optimizer, checkpoint["optimizer"], path)
    if "scheduler" in checkpoint and (session.config.lr_schedule != "step" or session.config.warmup_epochs):
        say(
            f"==> {path!r} is of an older version, whose learning rate changed once an epoch; it now "
            f"changes with every step, along the same {session.config.lr_schedule} schedule"
        )
    _load_scaler(session.scaler, checkpoint.get("scaler", {}), path)
    if on_first((session.run_dir / BEST).is_file):
        session.best_acc1 = checkpoint["best_acc1"]
    session.partial = checkpoint.get("partial")
    if session.partial is not None:
        _check_partial(session, path)
    states = checkpoint["rng"]
    states = [states] if isinstance(states, dict) else states  # as older versions have written it
    if rank() < len(states):
        try:
            restore_rng_state(states[rank()])  # last: everything above may draw
        except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise changed(path, f"['rng'] is no random state ({error})") from error


def _load_scaler(scaler: torch.amp.GradScaler, state: dict[str, float], path: str) -> None:
    own = scaler.state_dict()
    if own.keys() != state.keys() or not all(value > 0 for name, value in state.items() if name[0] != "_"):
        raise changed(path, f"['scaler'] is not that of --amp {'fp16' if own else 'bf16 or none'}")
    scaler.load_state_dict(state)


def _check_partial(session: Session, path: str) -> None:
    """Raises ValueError where the place in an epoch is none of this run's."""
    partial, loader, own = session.partial, session.data.train, FlipRates(session.model.eval()).bits
    signs = partial["signs"]
    if not 0 <= partial["images"] <= loader.count or not partial["meters"]:
        raise changed(path, f"['partial'] is not within an epoch of {loader.count:,} images")
    if {n: (s.shape, s.dtype) for n, s in signs.items()} != {n: (s.shape, s.dtype) for n, s in own.items()}:
        raise changed(path, "['partial']['signs'] is not of this network's layers")
    try:
        torch.Generator().set_state(partial["random_state"])
    except (RuntimeError, TypeError) as error:
        raise changed(path, f"['partial']['random_state'] is no random state ({error})") from error
