"""Runs that are cut after an epoch and continued: they must end as if they had never been cut."""

import shutil

import pytest
import torch
from tiny_runs import epochs_of, train

import training
from training import engine

# What a checkpoint has of the state of a run.
STATE = ("model", "trained", "optimizer", "scaler", "rng", "epoch", "acc1", "best_acc1")


def assert_same(a, b):
    """Bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_run(one, other):
    for name, keys in {"last.pt": STATE, "best.pt": ("model", "epoch", "acc1", "best_acc1")}.items():
        a, b = (torch.load(run / name, weights_only=True) for run in (one, other))
        for key in keys:
            assert_same(a[key], b[key])


def train_with_cuts(folder, **flags):
    """Train in ``folder``/uncut; ``folder``/cut1, cut2, ... are its directory as it was after each epoch."""

    def save_and_copy(session, acc1, best):
        save(session, acc1, best)
        shutil.copytree(session.run_dir, folder / f"cut{session.epoch}")

    save = engine.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "save", save_and_copy)
        return train(folder / "uncut", **flags)


def assert_resumes_exactly(folder, epochs=4, **flags):
    """Train, and continue from each epoch but the last."""
    train_with_cuts(folder, epochs=epochs, augment="crop_flip", **flags)
    for epoch in range(1, epochs):
        torch.manual_seed(1000 + epoch)  # another process has another random state
        run = folder / f"cut{epoch}"
        session = training.setup(training.config_from_flags({"resume": str(run), "gpu": ""}))
        assert session.epoch == epoch
        training.fit(session)
        assert_same_run(run, folder / "uncut")
        assert epochs_of(run) == epochs_of(folder / "uncut")


def train_with_cuts_within_epochs(folder, **flags):
    """Train in ``folder``/uncut; ``folder``/cut1, cut2, ... are its directory as it was after each partial epoch."""

    def save_and_copy(session, *args):
        save_partial(session, *args)
        shutil.copytree(session.run_dir, folder / f"cut{len(list(folder.glob('cut*'))) + 1}")

    save_partial = engine.save_partial
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "save_partial", save_and_copy)
        return train(folder / "uncut", **flags)


def resume(run_dir, **flags):
    session = training.setup(training.config_from_flags({"resume": str(run_dir), "gpu": "", **flags}))
    training.fit(session)
    return session
