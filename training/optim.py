"""torch's optimizers and learning-rate schedules by name."""

from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

import quantize

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}
LR_SCHEDULES = ("step", "cosine")


def create_optimizer(config, model: nn.Module) -> optim.Optimizer:
    """``config.optimizer`` over all trainable parameters; clips latent weights where the configuration says so."""
    options = {"lr": config.lr}
    if config.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = config.momentum
    optimizer = OPTIMIZERS[config.optimizer](quantize.param_groups(model, config.weight_decay), **options)
    if config.clip_weights:
        quantize.clip_after_step(optimizer, model, config.clip_weights)
    return optimizer


def create_scheduler(config, optimizer: optim.Optimizer) -> LRScheduler:
    """``config.lr_schedule``, stepped once an epoch: x gamma at the milestones, or a cosine to zero."""
    if config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    return MultiStepLR(optimizer, milestones=list(config.milestones), gamma=config.gamma)
