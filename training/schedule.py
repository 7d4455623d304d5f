"""The stages of a run, its learning rate and the size of its images: pure functions of step and epoch."""

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import TrainConfig

LR_SCHEDULES = ("step", "cosine", "linear", "exponential", "one-cycle")

# Of one-cycle: where it starts and ends, as shares of the highest rate, and the share of a stage in which it rises.
CYCLE_START, CYCLE_END, CYCLE_RISE = 1 / 25, 1 / 25e4, 0.3


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run with an optimizer and a learning-rate schedule of its own.

    Attributes:
        start: epochs of the run before it.
        epochs: its length.
        weight_decay: of its optimizer.
        float_weights: binary layers compute with their latent weights. Accuracy is then not that of the
            network that ships, and no checkpoint of the stage is the best one.
    """

    start: int
    epochs: int
    weight_decay: float
    float_weights: bool = False


def stages_of(config: "TrainConfig") -> list[Stage]:
    """One stage, or with ``--stage1-epochs`` two, the second without weight decay. Liu et al., *ReActNet*, 2020."""
    first = config.stage1_epochs
    if not first:
        return [Stage(0, config.epochs, config.weight_decay)]
    return [
        Stage(0, first, config.weight_decay, float_weights=True),
        Stage(first, config.epochs - first, weight_decay=0.0),
    ]


def stage_at(config: "TrainConfig", epoch: int) -> Stage:
    """The stage of the epoch that follows ``epoch`` epochs; the last one after all."""
    return [stage for stage in stages_of(config) if stage.start <= epoch][-1]


def learning_rate(config: "TrainConfig", step: int, epoch_steps: int) -> float:
    """The learning rate of an update of the weights.

    With t the epochs of its stage that are done, a fraction, W the ``--warmup-epochs`` and E the epochs of the stage,
    the rate is ``--lr`` times

        first, t < W:   s + (1 - s) t / W, s = 1 / (1 + max(2, W)): from a third, or less where the rise is long
        step:           gamma ** (milestones of the stage that are reached)
        cosine:         (1 + cos(pi p)) / 2, p = (t - W) / (E - W)
        linear:         1 - p
        exponential:    gamma ** p
        one-cycle:      a cosine from 1/25 up to 1 in the first W, by default 0.3 E, epochs; then one down to 4e-6.
                        Smith & Topin, *Super-Convergence*, 2019, of the learning rate alone

    Args:
        step: updates of the run before it.
        epoch_steps: updates in an epoch.
    """
    stage, warmup = stage_at(config, step // epoch_steps), config.warmup_epochs
    done = step / epoch_steps - stage.start
    if config.lr_schedule == "one-cycle":
        return config.lr * _one_cycle(done, warmup or CYCLE_RISE * stage.epochs, stage.epochs)
    if done < warmup:
        start = 1 / (1 + max(2, warmup))
        return config.lr * (start + (1 - start) * done / warmup)
    if config.lr_schedule == "step":
        reached = [m for m in config.milestones if stage.start < m and m * epoch_steps <= step]
        return config.lr * config.gamma ** len(reached)
    share = (done - warmup) / (stage.epochs - warmup)
    falling = {"cosine": _cosine(1, 0, share), "linear": 1 - share, "exponential": config.gamma**share}
    return config.lr * falling[config.lr_schedule]


def image_size(config: "TrainConfig", epoch: int) -> int:
    """Pixels a side of the training images in the epoch that follows ``epoch`` epochs; tests have the full size.

    With ``--start-size`` S, F the full size and E the epochs of the run it is S + (F - S) epoch / (E / 2) in the first
    half of the run, rounded down to a multiple of 4, and F in the second: early epochs cost less. Howard's entry to
    DAWNBench, 2018; Tan & Le, *EfficientNetV2*, 2021, sec. 4.
    """
    full = config.input_size[1]
    if config.start_size is None or 2 * epoch >= config.epochs:
        return full
    return config.start_size + (full - config.start_size) * 2 * epoch // config.epochs // 4 * 4


def _one_cycle(done: float, rise: float, epochs: int) -> float:
    if done < rise:
        return _cosine(CYCLE_START, 1, done / rise)
    return _cosine(1, CYCLE_END, (done - rise) / (epochs - rise))


def _cosine(start: float, end: float, share: float) -> float:
    """From ``start`` to ``end``, flat at both."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
