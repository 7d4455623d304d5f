"""What changes the weights: torch's optimizers by name, and an average of the weights over the steps."""

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import quantize
from quantize import BinaryLayer

from .schedule import Stage

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}
LR_SCHEDULES = ("step", "cosine", "linear", "exponential")


def create_optimizer(config, model: nn.Module, stage: Stage) -> optim.Optimizer:
    """``config.optimizer`` over all trainable parameters; clips latent weights where the configuration says so."""
    options = {"lr": config.lr}
    if config.optimizer != "rmsprop":
        options["fused"] = next(model.parameters()).device.type in ("cpu", "cuda")  # one pass over the parameters
    if config.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = config.momentum
    optimizer = OPTIMIZERS[config.optimizer](quantize.param_groups(model, stage.weight_decay), **options)
    if config.clip_weights:
        quantize.clip_after_step(optimizer, model, config.clip_weights)
    return optimizer


def create_scheduler(config, optimizer: optim.Optimizer, stage: Stage) -> LRScheduler:
    """``config.lr_schedule`` over the epochs of a stage, stepped once an epoch.

    ``--warmup-epochs`` N come first: lr/(N+1), 2 lr/(N+1), ... Then "step" is x gamma at the milestones that lie in
    the stage, "cosine" and "linear" fall to zero, "exponential" to gamma times lr.
    """
    warmup = config.warmup_epochs
    start, epochs = stage.start + warmup, stage.epochs - warmup
    if config.lr_schedule == "cosine":
        falling = CosineAnnealingLR(optimizer, T_max=epochs)
    elif config.lr_schedule == "linear":
        falling = LinearLR(optimizer, 1.0, 0.0, total_iters=epochs)
    elif config.lr_schedule == "exponential":
        falling = ExponentialLR(optimizer, gamma=config.gamma ** (1 / epochs))
    else:
        milestones = [epoch - start for epoch in config.milestones if start < epoch]
        falling = MultiStepLR(optimizer, milestones, gamma=config.gamma)
    if not warmup:
        return falling
    rising = LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rising, falling], [warmup])


class WeightAverage(AveragedModel):
    """``average <- decay * average + (1 - decay) * weights`` after each step, from the first step's weights on.

    The statistics of batch norm are averaged too; whole numbers (its counter) are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=_average(decay), use_buffers=True)
        self.module.requires_grad_(False).eval()

    def update_parameters(self, model: nn.Module) -> None:
        super().update_parameters(model)
        for own, layer in zip(self.module.modules(), model.modules(), strict=True):
            if isinstance(layer, BinaryLayer):  # the first batch has given the model's thresholds their values
                own.threshold_pending = layer.threshold_pending


def _average(decay: float):
    floating = get_ema_multi_avg_fn(decay)

    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        if averages[0].is_floating_point():
            floating(averages, values, count)
        else:
            torch._foreach_copy_(averages, values)

    return update
