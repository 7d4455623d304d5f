"""--checkpoint-every: a run that is cut within an epoch goes on as if it had never been cut."""

import pytest
import torch
from cut_runs import assert_same_run, resume, train_with_cuts_within_epochs
from tiny_runs import epochs_of, train

import training
from training import engine

FLAGS = {"epochs": 2, "batch_size": 100, "augment": "crop_flip", "checkpoint_every": 5}


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer": "adam", "ema": 0.9, "mixup": 0.2},
        {"optimizer": "sgd", "scheme": "binaryconnect:stochastic=true", "random_erasing": 0.3},
        {"accumulate": 2, "scheme": "irnet", "channels_last": True, "checkpoint_every": 3},
        {"amp": "fp16", "stage1_epochs": 1},
        {"optimizer": "rmsprop", "lr_schedule": "one-cycle"},
        {"lr_schedule": "linear", "warmup_epochs": 1.25},
    ],
    ids=lambda flags: "-".join(flags),
)
def test_it_goes_on_exactly(tmp_path, flags):
    train_with_cuts_within_epochs(tmp_path, **{**FLAGS, **flags})
    cuts = sorted(tmp_path.glob("cut*"))
    assert len(cuts) == 4
    for cut in (cuts[0], cuts[3]):  # one in each epoch
        assert torch.load(cut / "last.pt", weights_only=True)["partial"]["images"] in (500, 600, 1000, 1200)
        torch.manual_seed(7)  # another process has another random state
        resume(cut)
        assert_same_run(cut, tmp_path / "uncut")
        assert epochs_of(cut) == epochs_of(tmp_path / "uncut")


def test_streamed_pictures_too(tmp_path, monkeypatch):
    from picture_files import write_pictures

    write_pictures(tmp_path / "pictures", count=12, size=(12, 12))
    folder = {"dataset": "imagefolder", "data_dir": str(tmp_path / "pictures"), "augment": "resized_crop", "workers": 1}
    train_with_cuts_within_epochs(tmp_path, **{**FLAGS, **folder, "batch_size": 4, "checkpoint_every": 2})
    for cut in (tmp_path / "cut1", tmp_path / "cut4"):
        resume(cut, workers=0)
        assert_same_run(cut, tmp_path / "uncut")


def test_the_flips_of_the_epoch_are_counted_from_its_start(tmp_path, monkeypatch):
    told = {}

    def note(logger, stage, lr, *metrics):
        epoch(logger, stage, lr, *metrics)
        told.setdefault(logger.session.run_dir.name, []).append(counted[-1])

    def count(flips):
        counted.append(update(flips))
        return counted[-1]

    counted, update, epoch = [], training.watch.health.FlipRates.update, training.watch.logger.RunLogger.epoch
    monkeypatch.setattr(training.watch.health.FlipRates, "update", count)
    monkeypatch.setattr(training.watch.logger.RunLogger, "epoch", note)
    train_with_cuts_within_epochs(tmp_path, **FLAGS, lr=0.02)
    resume(tmp_path / "cut4")
    assert told["cut4"] == told["uncut"][1:]
    assert all(rate > 0 for rate in told["cut4"][0].values())


def test_no_checkpoint_lies_within_an_epoch_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "save_partial", None)
    train(tmp_path / "never", epochs=1, batch_size=100)
    train(tmp_path / "at the end anyway", epochs=1, batch_size=100, checkpoint_every=14)


def test_one_process_goes_on_where_two_were(tmp_path):
    train_with_cuts_within_epochs(tmp_path, **FLAGS)
    path = tmp_path / "cut1" / "last.pt"
    checkpoint = torch.load(path, weights_only=True)
    (meter,), (state,) = checkpoint["partial"]["meters"], checkpoint["rng"]
    checkpoint["partial"]["meters"] = [meter, {**meter, "images": 300}]  # as two have left it, after 800 images
    checkpoint["partial"]["images"] = 800
    torch.save({**checkpoint, "rng": [state, state]}, path)
    resume(tmp_path / "cut1")
    assert [entry["train"]["images"] for entry in epochs_of(tmp_path / "cut1")] == [500 + 300 + 600, 1400]


def test_it_is_said_where_a_run_goes_on(tmp_path, capsys):
    train_with_cuts_within_epochs(tmp_path, **FLAGS)
    capsys.readouterr()
    resume(tmp_path / "cut4", checkpoint_every=0)
    assert "==> continuing in epoch 2 after 1,000 images: " in capsys.readouterr().out
    assert training.load_model(tmp_path / "cut1" / "last.pt")[1].acc1 is None
