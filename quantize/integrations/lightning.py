"""A callback for Lightning's Trainer (the package ``lightning``)."""

from collections.abc import Sequence
from typing import Any

from .duties import Duties, explained

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise explained(error, "lightning", __name__) from None


class BinaryCallback(Callback):
    """Does for the binary layers of a LightningModule what its loop has to; its arguments are those of :class:`Duties`.

    The progress of annealed schemes is that of the trainer's steps, ``max_steps`` or ``max_epochs``; weights are
    clipped after each batch; statistics are estimated before each validation and at the end; the figures of ``watch``,
    with which the LightningModule itself is called, go to its loggers after each epoch. Parameter groups are made where
    the optimizer is: ``quantize.param_groups(self, weight_decay)`` in ``configure_optimizers``.
    """

    def __init__(self, clip: float = 1.0, statistics: Sequence[Any] = (), watch: Any = None):
        self.duties = Duties(clip, statistics, watch)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.duties.begin(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.duties.before_step(trainer.global_step, trainer.estimated_stepping_batches)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.duties.after_step()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.duties.before_evaluation()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if figures := self.duties.figures():
            pl_module.log_dict(figures)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.duties.before_evaluation()
