"""Networks small enough to train in a test, and runs of them on scikit-learn's digits."""

from torch import nn

import models
import trainer_exp
import training
from training.watch.runlog import read_log


@models.register_model("tiny", input_size=(1, 8, 8))
def tiny(num_classes=10, in_chans=1, layout="float"):
    """Three convolutions with batch norm before the inner ones, and dropout."""
    return nn.Sequential(
        nn.Conv2d(in_chans, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, num_classes),
    )


@models.register_model("plain", input_size=(1, 8, 8))
def plain(num_classes=10, in_chans=1, layout="float"):
    """Without batch norm, dropout and ties between values."""
    return nn.Sequential(
        nn.Conv2d(in_chans, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, num_classes)
    )


@models.register_model("pooled", input_size=(1, 8, 8))
def pooled(num_classes=10, in_chans=1, layout="float"):
    """Takes images of any size; more first filters than a patch has values of both signs, 18."""
    return nn.Sequential(
        nn.Conv2d(in_chans, 20, 3, padding=1),
        nn.BatchNorm2d(20),
        nn.Conv2d(20, 16, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def tiny_flags(run_dir, **flags):
    """Few steps an epoch, unless the batch is given: 15 of 100 images."""
    tiny = {"arch": "tiny_xnornet", "dataset": "digits", "batch_size": 100, "epochs": 2}
    return {**tiny, "gpu": "", "log_path": str(run_dir), **flags}


def setup(run_dir, **flags):
    """A session that has not begun."""
    return training.setup(training.config_from_flags(tiny_flags(run_dir, **flags)))


def train(run_dir, **flags):
    """A finished run's session."""
    session = setup(run_dir, **flags)
    training.fit(session)
    return session


def call(*argv):
    """The exit code of the command line, on the CPU where it names no other device."""
    try:
        return trainer_exp.main(["--gpu", "", *map(str, argv)])
    except SystemExit as stop:
        return stop.code


def epochs_of(run_dir):
    """The log's epochs, times and memory left out."""
    timed = ("seconds", "load_seconds")
    entries = [entry for entry in read_log(run_dir) if entry["kind"] == "epoch"]
    for entry in entries:
        del entry["peak_memory"]
        for part in ("train", "test"):
            entry[part] = {name: value for name, value in entry[part].items() if name not in timed}
    return entries
