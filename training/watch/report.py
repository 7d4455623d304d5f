"""What is reported of an epoch, to the console, the log file and TensorBoard alike."""

import dataclasses

from .health import LayerHealth
from .metrics import Metrics


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """An epoch of a run.

    Attributes:
        epoch: epochs done with it.
        lr: learning rate in it.
        float_weights: it belongs to the first of two stages, and ``test`` is not of the 1-bit network.
        train, test: averages over the two sets.
        best_acc1: best test accuracy so far in percent; None before there is one.
        flip_rates: layer -> share of the weights that have changed their sign in it.
        health: layer -> state of its inputs after it.
    """

    epoch: int
    lr: float
    float_weights: bool
    train: Metrics
    test: Metrics
    best_acc1: float | None
    flip_rates: dict[str, float]
    health: dict[str, LayerHealth]
