"""The curves of a run, for ``tensorboard --logdir runs``: one point an epoch."""

import dataclasses
from pathlib import Path

from torch import nn

from .config import TrainConfig
from .flips import FlipRates
from .metrics import Metrics

# The columns of the HPARAMS tab, and the curve that is its metric.
HPARAMS = (
    "arch",
    "scheme",
    "dataset",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "lr_schedule",
    "augment",
    "seed",
)
METRIC = "best_acc1"


class TensorBoardLog:
    """Writes ``loss/*``, ``top1/*``, ``lr``, ``images_per_second``, ``flip_rate/<layer>``,
    ``weight/<layer>`` (histogram of the latent weights) and the hyperparameters with ``best_acc1``.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, model: nn.Module, epochs_done: int):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self.writer = SummaryWriter(str(run_dir), purge_step=epochs_done + 1 if epochs_done else None)
        self.flips = FlipRates(model.eval())
        values = dataclasses.asdict(config) | {"scheme": config.effective_scheme or "none"}
        # SummaryWriter.add_hparams would open a second run, in a directory of its own.
        experiment, start, self.end = hparams({name: values[name] for name in HPARAMS}, {METRIC: 0.0})
        for summary in (experiment, start):
            self.writer.file_writer.add_summary(summary)

    def epoch(self, epoch: int, lr: float, train: Metrics, test: Metrics, best_acc1: float) -> None:
        """One point of each curve, after ``epoch`` epochs."""
        scalars = {
            "loss/train": train.loss,
            "loss/test": test.loss,
            "top1/train": train.top1,
            "top1/test": test.top1,
            "lr": lr,
            "images_per_second": train.images_per_second,
            METRIC: best_acc1,
        }
        scalars |= {f"flip_rate/{layer}": rate for layer, rate in self.flips.update().items()}
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, epoch)
        for name, layer in self.flips.layers.items():
            self.writer.add_histogram(f"weight/{name}", layer.weight.detach(), epoch)
        self.writer.flush()

    def finish(self) -> None:
        """Mark the run as complete in the HPARAMS tab."""
        self.writer.file_writer.add_summary(self.end)

    def close(self) -> None:
        self.writer.close()
