"""The loop: it learns, repeats, resumes exactly and stops where numbers are not finite."""

import itertools
import math
import re
import warnings

import pytest
import torch
from cut_runs import assert_resumes_exactly, assert_same, assert_same_run, train_with_cuts
from tiny_runs import epochs_of, tiny_flags, train
from torch import nn
from torch.nn import functional as F

import quantize
import training
from training import RunStopped, TrainConfig, engine
from training import checkpoint as checkpoints
from training.execution import Execution
from training.watch.health import first_nonfinite

pytestmark = pytest.mark.core


def test_training_learns(tmp_path):
    session = train(tmp_path / "run", epochs=6, lr=0.01, batch_size=16)
    assert session.best_acc1 > 85
    tops = [entry["test"]["top1"] for entry in epochs_of(tmp_path / "run")]
    assert session.best_acc1 == max(tops)
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["acc1"] == max(tops)
    assert best["epoch"] == 1 + tops.index(max(tops))
    assert_same(best["model"], dict(session.model.state_dict()))


def test_a_run_ends_with_its_best_weights(tmp_path):
    session = train(tmp_path / "run", epochs=3, lr=0.01, batch_size=16, lr_schedule="step", milestones=(2,), gamma=1e4)
    assert session.best_acc1 > epochs_of(tmp_path / "run")[-1]["test"]["top1"] + 10  # the last epoch spoilt them
    assert training.evaluate(session.model, session.data.test).top1 == session.best_acc1


def test_annealed_schemes_are_told_how_far_training_is(tmp_path, monkeypatch):
    def note(session, *args):
        told.append(session.model[2].progress.item())
        save(session, *args)

    told, save = [], engine.save
    monkeypatch.setattr(engine, "save", note)
    train(tmp_path / "run", epochs=4, scheme="irnet")
    assert told == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_drawn_weights_are_tested_with_the_statistics_of_their_signs(tmp_path, ema):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = train(tmp_path / "run", scheme="binaryconnect:stochastic=True", ema=ema)
    norm = session.evaluated[4]
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    quantize.estimate_statistics(session.evaluated, session.data.train.sample(2048, augmented=True))
    torch.testing.assert_close((mean, var), (norm.running_mean, norm.running_var), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "flags",
    [
        {"optimizer": "adam", "lr_schedule": "cosine"},
        {"optimizer": "sgd", "lr": 0.05, "lr_schedule": "step", "milestones": (2, 3), "weight_decay": 1e-4},
        {"scheme": "binaryconnect:stochastic=true"},
        {"scheme": "irnet"},
        {"scheme": "none"},
    ],
    ids=["adam", "sgd", "stochastic", "annealed", "float"],
)
def test_a_run_cut_at_any_epoch_and_resumed_equals_the_uncut_one(tmp_path, flags):
    assert_resumes_exactly(tmp_path, **flags)


def test_a_run_interrupted_within_an_epoch_resumes_exactly(tmp_path, monkeypatch):
    train(tmp_path / "uncut", epochs=3, batch_size=32)
    calls = 0

    def interrupt(*args, **options):
        nonlocal calls
        calls += 1
        if calls == 130:  # 45 + 12 batches an epoch: in the third
            raise KeyboardInterrupt
        return F_cross_entropy(*args, **options)

    F_cross_entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", epochs=3, batch_size=32)
    monkeypatch.undo()
    assert len(epochs_of(tmp_path / "cut")) == 2
    training.fit(training.setup(training.config_from_flags({"resume": str(tmp_path / "cut"), "gpu": ""})))
    assert_same_run(tmp_path / "cut", tmp_path / "uncut")


def test_a_resumed_run_without_its_best_checkpoint_makes_a_new_one(tmp_path):
    train_with_cuts(tmp_path, epochs=3)
    target = tmp_path / "elsewhere"
    flags = {"resume": str(tmp_path / "cut1" / "last.pt"), "log_path": str(target), "gpu": ""}
    session = training.setup(training.config_from_flags(flags))
    training.fit(session)
    assert session.best_acc1 == max(entry["test"]["top1"] for entry in epochs_of(target))
    assert (target / "best.pt").exists()


def test_each_epoch_sees_another_order(tmp_path, monkeypatch):
    orders = []

    class Meter(engine.Meter):
        def __init__(self, *args):
            super().__init__(*args)
            orders.append([])

        def add(self, loss, outputs, labels):
            orders[-1] += labels.tolist()
            super().add(loss, outputs, labels)

    monkeypatch.setattr(engine, "Meter", Meter)
    train(tmp_path / "run")
    trained, tested = orders[::2], orders[1::2]
    assert trained[0] != trained[1]
    assert tested[0] == tested[1]


def test_runs_repeat_and_the_seed_matters(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, epochs=1, seed=seed)
    assert epochs_of(tmp_path / "a") == epochs_of(tmp_path / "b")
    assert epochs_of(tmp_path / "a") != epochs_of(tmp_path / "c")


def test_learning_rates_follow_the_schedule(tmp_path):
    train(tmp_path / "step", epochs=4, lr=0.01, lr_schedule="step", milestones=(1, 3), gamma=0.5)
    assert [e["lr"] for e in epochs_of(tmp_path / "step")] == pytest.approx([0.01, 0.005, 0.005, 0.0025])
    train(tmp_path / "cosine", epochs=4, lr=0.01, lr_schedule="cosine")
    expected = [0.005 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    assert [e["lr"] for e in epochs_of(tmp_path / "cosine")] == pytest.approx(expected)


def test_evaluate_equals_a_plain_loop(tmp_path):
    session = train(tmp_path / "run", epochs=1)
    images = torch.cat([images for images, _ in session.data.test])
    labels = torch.cat([labels for _, labels in session.data.test])
    log_p = session.model.eval()(images).double().log_softmax(1)
    loss = -sum(log_p[i, label].item() for i, label in enumerate(labels)) / len(labels)
    right = sum(int(row.argmax()) == label for row, label in zip(log_p, labels.tolist(), strict=True))
    result = training.evaluate(session.model, session.data.test)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.top1 == pytest.approx(100 * right / len(labels))
    assert result.images == len(labels) == 355
    assert 0 <= result.load_seconds <= result.seconds


def test_latent_weights_are_clipped_where_asked(tmp_path):
    session = train(tmp_path / "run", epochs=1, lr=0.5, clip_weights=0.25)
    assert session.model[2].weight.abs().max() == 0.25
    assert session.model[0].weight.abs().max() > 0.25  # a float layer


# Numbers that are not finite.


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    train(tmp_path / "run", epochs=1, batch_size=32, lr_schedule="step", milestones=(1,))
    flags = {"resume": str(tmp_path / "run"), "epochs": 2, "gpu": ""}
    session = training.setup(training.config_from_flags(flags))
    steps = itertools.count(1)

    def break_the_last_layer(*_):
        if next(steps) == 3:
            session.model[9].weight.data[0, 0] = math.inf

    session.optimizer.register_step_post_hook(break_the_last_layer)
    with pytest.raises(training.NonFiniteError) as caught:
        training.fit(session)
    message = str(caught.value)
    expected = r"the loss is (nan|inf) at epoch 2, step 4 of 45: the first layer with a non-finite output is .9."
    assert re.match(expected, message)
    assert f"the last good checkpoint is {tmp_path / 'run' / 'last.pt'}" in message
    model, info = training.load_model(tmp_path / "run" / "last.pt")
    assert info.epoch == 1
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_weight_that_hides_behind_a_sign_stops_the_run_too(tmp_path):
    session = training.setup(training.config_from_flags(tiny_flags(tmp_path / "run", scheme="bnn", clip_weights=0.0)))
    weight = session.model[5].weight
    session.optimizer.register_step_post_hook(lambda *_: weight.data[0, 0, 0, 0].fill_(math.nan))
    with pytest.raises(training.NonFiniteError, match=r"a weight after epoch 1: .*weights is '5' \(BinaryConv2d\)"):
        training.fit(session)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_the_first_layer_in_execution_order_is_named():
    class Backwards(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.last(self.first(x))

    model = Backwards()
    assert first_nonfinite(model, torch.ones(1, 2)) == "every layer's output is finite"
    model.first.weight.data[0, 0] = math.inf
    text = first_nonfinite(model, torch.ones(1, 2))
    assert "'first' (Linear)" in text
    assert "its weights are not finite either" in text
    assert "gradient" not in text
    model.first.weight.grad = torch.full((2, 2), math.nan)
    assert "gradient of the step before" in first_nonfinite(model, torch.ones(1, 2))
    model.first.weight.data.fill_(3e38)
    assert "its weights are finite" in first_nonfinite(model, torch.full((1, 2), 10.0))


# Checkpoints.


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"epoch": 1})

    def break_off(contents, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_checkpoint(path, {"epoch": 2})
    assert checkpoints.read_file(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_checkpoint_carries_what_made_it(tmp_path):
    train(tmp_path / "run", epochs=1, overrides={"2": "bwn"}, seed=5)
    contents = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert contents["config"]["seed"] == 5
    assert contents["config"]["overrides"] == {"2": "bwn"}
    assert contents["arch"] == "tiny_xnornet"
    assert contents["scheme"] == "xnor"
    assert {row["name"]: row["scheme"] for row in contents["plan"]} == {"0": None, "2": "bwn", "5": "xnor", "9": None}
    assert contents["classes"] == [str(i) for i in range(10)]
    assert contents["input_size"] == (1, 8, 8)
    assert contents["normalization"] == {"mean": (0.3053,), "std": (0.376,)}
    assert contents["versions"]["torch"] == str(torch.__version__)


def test_the_best_checkpoint_has_no_state_of_training(tmp_path, capsys):
    session = train(tmp_path / "run", epochs=2, optimizer="adam", ema=0.9, lr_schedule="step")
    best, last = (torch.load(tmp_path / "run" / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert last.keys() - best.keys() == {"trained", "optimizer", "scaler", "rng", "partial"}
    assert not best.keys() - last.keys()
    best_file = str(tmp_path / "run" / "best.pt")
    with pytest.raises(ValueError, match=r"best.pt' holds a trained network without .* continue from last.pt"):
        training.config_from_flags({"resume": best_file, "epochs": 3})
    weights = training.load_model(best_file)[0].state_dict()
    assert_same(dict(weights), dict(session.model.state_dict()))
    checkpoints.save_checkpoint(tmp_path / "run" / "best.pt", last)  # as older versions have written it
    assert training.setup(training.config_from_flags({"resume": best_file, "epochs": 3, "gpu": ""})).epoch == 2
    assert training.load_model(best_file)[1].epoch == 2


def test_what_is_no_checkpoint_is_said_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        checkpoints.read_checkpoint(tmp_path)
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"epoch": 1, "weights": torch.randn(1000)})
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a complete checkpoint") as caught:
            checkpoints.read_checkpoint(path)
        assert "\n" not in str(caught.value)
    torch.save({"weight": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="plain weights go to --pretrained"):
        checkpoints.read_checkpoint(path)
    torch.save({"format": 99}, path)
    with pytest.raises(ValueError, match="format 99; this version reads 1"):
        checkpoints.read_checkpoint(path)


def test_a_batch_of_one_image_that_has_no_variance_names_the_flags():
    execution = Execution(TrainConfig.create(arch="nin"), nn.BatchNorm1d(3), torch.device("cpu"))
    assert execution(torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(RunStopped, match=r"batches of one image .*Expected more than 1 value.* raise --batch-size"):
        execution(torch.ones(1, 3))
