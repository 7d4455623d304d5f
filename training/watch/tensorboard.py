"""The curves of a run, for ``tensorboard --logdir runs``: one point an epoch."""

import dataclasses
from pathlib import Path

from quantize import BinaryLayer

from ..config import TrainConfig
from .console import EpochReport

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
    "recipe",
    "loss",
    "stage1_epochs",
    "ema",
    "seed",
)
METRIC = "best_acc1"


class TensorBoardLog:
    """Writes ``loss/*``, ``top1/*``, ``lr``, ``images_per_second``, ``flip_rate/<layer>``, ``health/<layer>/*``,
    ``weight/<layer>`` (histogram of the latent weights) and the hyperparameters with ``best_acc1``.
    """

    def __init__(self, run_dir: Path, config: TrainConfig, layers: dict[str, BinaryLayer], epochs_done: int):
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # Later points, left by a run that was cut, give way. From the start: a run's first mark hides nothing.
        self.writer = SummaryWriter(str(run_dir), purge_step=epochs_done + 1)
        self.layers = layers
        values = dataclasses.asdict(config) | {"scheme": config.effective_scheme}
        shown = {name: "none" if values[name] is None else values[name] for name in HPARAMS}
        # SummaryWriter.add_hparams would open a second run, in a directory of its own.
        experiment, start, self.end = hparams(shown, {METRIC: 0.0})
        for summary in (experiment, start):
            self.writer.file_writer.add_summary(summary)

    def epoch(self, report: EpochReport) -> None:
        """One point of each curve."""
        scalars = {
            "loss/train": report.train.loss,
            "loss/test": report.test.loss,
            "top1/train": report.train.top1,
            "top1/test": report.test.top1,
            "lr": report.lr,
            "images_per_second": report.train.images_per_second,
        }
        if report.best_acc1 is not None:
            scalars[METRIC] = report.best_acc1
        if report.test.top1_mirrored is not None:
            scalars["top1/test_mirrored"] = report.test.top1_mirrored
        scalars |= {f"flip_rate/{layer}": rate for layer, rate in report.flip_rates.items()}
        for layer, health in report.health.items():
            scalars |= {f"health/{layer}/{name}": value for name, value in dataclasses.asdict(health).items()}
        for tag, value in scalars.items():
            self.writer.add_scalar(tag, value, report.epoch)
        for name, layer in self.layers.items():
            self.writer.add_histogram(f"weight/{name}", layer.weight.detach(), report.epoch)
        self.writer.flush()

    def finish(self) -> None:
        """Mark the run as complete in the HPARAMS tab."""
        self.writer.file_writer.add_summary(self.end)

    def close(self) -> None:
        self.writer.close()
