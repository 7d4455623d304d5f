"""What changes the weights: torch's optimizers by name, and an average of the weights over the steps."""

import torch
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import quantize
from quantize import BinaryLayer

from .config import TrainConfig
from .schedule import Stage

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}


def create_optimizer(config: TrainConfig, model: nn.Module, stage: Stage) -> optim.Optimizer:
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
