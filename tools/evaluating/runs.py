"""What tools that measure changed copies of a run's network have in common: their flags, the network, its data."""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.checkpoint import BEST, find_checkpoint
from training.config import TrainConfig
from training.data import Loader
from training.evaluation import open_checkpoint
from training.model import ModelInfo


class Sample:
    """``count`` images spread evenly over the set of ``loader``, all classes of a sorted set; iterate as over it."""

    def __init__(self, loader: Loader, count: int):
        if not 1 <= count <= loader.count:
            raise ValueError(f"--count is {count}; it must be from 1 to the {loader.count:,} test images")
        self.loader, self.count = loader, count
        self.batches = torch.linspace(0, loader.count - 1, count, dtype=torch.float64).long().split(loader.batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader.raw_batches(self.batches):
            yield self.loader.normalization(images), labels


class OpenedRun(NamedTuple):
    """A trained network with what it is measured on.

    Attributes:
        calibration: training batches that batch norm's statistics are estimated on.
        test: test images.
    """

    model: nn.Module
    info: ModelInfo
    config: TrainConfig
    calibration: list[tuple[Tensor, Tensor]]
    test: Sample


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Which run, its data, how many images."""
    parser.add_argument("checkpoint", type=Path, help="a .pt file, or the directory of a run")
    parser.add_argument("--dataset", default=argparse.SUPPRESS, help="default: the one that it was trained on")
    parser.add_argument("--data-dir", default=argparse.SUPPRESS, metavar="DIR", help="default: that of the training")
    parser.add_argument("--gpu", default=argparse.SUPPRESS, help="as of trainer_exp.py")
    parser.add_argument("--count", type=int, metavar="N", help="test images; default: all")
    parser.add_argument("--calibrate", type=int, default=10, metavar="N", help="training batches; default: %(default)s")


def check_folders(*files: Path | None) -> None:
    """Raises FileNotFoundError for a file to be written into no folder, which would fail after the measurement."""
    for path in files:
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"there is no directory {str(path.parent)!r} for {path.name!r}; make it first")


def open_run(flags: argparse.Namespace) -> OpenedRun:
    """The run that the flags name. Raises ValueError or OSError, in one sentence."""
    if flags.calibrate < 1:
        raise ValueError(f"--calibrate is {flags.calibrate}; it must be at least 1 batch")
    given = {name: getattr(flags, name) for name in ("dataset", "data_dir", "gpu") if hasattr(flags, name)}
    model, info, data, config = open_checkpoint(find_checkpoint(flags.checkpoint, BEST), given)
    count = data.test.count if flags.count is None else flags.count
    calibration = list(itertools.islice(data.train, flags.calibrate))
    return OpenedRun(model, info, config, calibration, Sample(data.test, count))
