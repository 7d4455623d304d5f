"""torch's optimizers and learning-rate schedules by name."""

from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}
LR_SCHEDULES = ("step", "cosine")


def create_optimizer(config, model: nn.Module) -> optim.Optimizer:
    """``config.optimizer`` over all trainable parameters."""
    options = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = config.momentum
    return OPTIMIZERS[config.optimizer]([p for p in model.parameters() if p.requires_grad], **options)


def create_scheduler(config, optimizer: optim.Optimizer) -> LRScheduler:
    """``config.lr_schedule``, stepped once an epoch: x gamma at the milestones, or a cosine to zero."""
    if config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=config.epochs)
    return MultiStepLR(optimizer, milestones=list(config.milestones), gamma=config.gamma)
