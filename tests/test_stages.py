"""Two-stage training: float weights behind binary inputs, then both binary; and the progress of annealed schemes."""

import dataclasses
import re

import pytest
import torch
from cut_runs import assert_resumes_exactly, train_with_cuts
from tiny_runs import epochs_of, setup, train
from torch.nn import functional as F

import quantize
import training
from training import engine
from training.watch.health import FlipRates

TWO_STAGES = {"stage1_epochs": 2, "epochs": 4, "lr": 0.01, "lr_schedule": "linear", "weight_decay": 0.1}


@pytest.fixture
def watched(monkeypatch):
    """For each epoch: a binary layer's weight and output as it trains, and the optimizer's group of weights."""
    seen = []

    def watch(session):
        layer = session.model[2]
        x = torch.randn(2, 8, 8, 8)
        binary_inputs = x - layer.threshold.view(-1, 1, 1) if layer.threshold is not None else x
        signs = torch.where(binary_inputs >= 0, 1.0, -1.0)
        floating = F.conv2d(signs, layer.weight, layer.bias, stride=2, padding=1)
        seen.append((torch.allclose(layer(x), floating, atol=1e-5), dict(session.optimizer.param_groups[0])))
        return train_epoch(session)

    train_epoch = engine.train_epoch
    monkeypatch.setattr(engine, "train_epoch", watch)
    return seen


def test_the_first_stage_has_float_weights_and_the_second_no_decay(tmp_path, watched):
    session = train(tmp_path, **TWO_STAGES)
    assert [floating for floating, _ in watched] == [True, True, False, False]
    assert [group["weight_decay"] for _, group in watched] == [0.1, 0.1, 0, 0]
    assert [entry["lr"] for entry in epochs_of(tmp_path)] == pytest.approx([0.01, 0.005, 0.01, 0.005])
    assert [entry["float_weights"] for entry in epochs_of(tmp_path)] == [True, True, False, False]
    weights = session.model[2].quantized_weight().values
    assert weights.unique().tolist() == [-1, 1]


def test_the_second_stage_starts_with_a_fresh_optimizer_and_the_weights_of_the_first(tmp_path):
    train_with_cuts(tmp_path, **TWO_STAGES)
    first, second = (torch.load(tmp_path / f"cut{n}" / "last.pt", weights_only=True) for n in (1, 2))
    assert first["optimizer"]["state"]
    assert not second["optimizer"]["state"]
    session = training.setup(training.config_from_flags({"resume": str(tmp_path / "cut2"), "gpu": ""}))
    assert torch.equal(session.model[2].weight, second["model"]["2.weight"])
    assert not session.model[2].float_weights


def test_averaged_weights_are_tested_in_the_form_of_their_stage(tmp_path):
    train_with_cuts(tmp_path, **TWO_STAGES, ema=0.5)
    for epoch, floating in ((1, True), (2, False)):
        session = training.setup(training.config_from_flags({"resume": str(tmp_path / f"cut{epoch}"), "gpu": ""}))
        assert session.evaluated is not session.model
        assert [session.evaluated[n].float_weights for n in (2, 5)] == [floating] * 2


def test_the_best_checkpoint_is_of_the_second_stage(tmp_path, monkeypatch, capsys):
    tops = iter([90.0, 95.0, 30.0, 20.0])
    evaluate = engine.evaluate
    monkeypatch.setattr(engine, "evaluate", lambda *args: dataclasses.replace(evaluate(*args), top1=next(tops)))
    session = train(tmp_path, **TWO_STAGES)
    assert session.best_acc1 == 30
    assert training.load_model(tmp_path)[1].epoch == 3
    out = capsys.readouterr().out
    lines = re.findall(r"^Test:.*", out, re.MULTILINE)
    assert [("with float weights (stage 1)" in line, "best 30.00%" in line) for line in lines] == [
        (True, False),
        (True, False),
        (False, True),
        (False, True),
    ]
    assert "best_acc1: 30.00\n" in out


def test_a_checkpoint_of_the_first_stage_ships_as_a_1_bit_network(tmp_path):
    train_with_cuts(tmp_path, **TWO_STAGES)
    assert not (tmp_path / "cut2" / "best.pt").exists()
    model, _ = training.load_model(tmp_path / "cut1" / "last.pt")
    assert model[2].quantized_weight().values.unique().tolist() == [-1, 1]


@pytest.mark.parametrize("flags", [{}, {"scheme": "irnet", "ema": 0.9}], ids=["plain", "annealed, averaged"])
def test_both_stages_resume_exactly(tmp_path, flags):
    assert_resumes_exactly(tmp_path, **TWO_STAGES, batch_size=100, **flags)


def test_the_recipe(tmp_path):
    config = setup(tmp_path, recipe="two-stage", epochs=5).config
    assert (config.optimizer, config.stage1_epochs, config.lr_schedule) == ("adam", 2, "linear")


def test_a_schedule_of_steps_starts_again_in_the_second_stage(tmp_path):
    flags = {**TWO_STAGES, "epochs": 6, "stage1_epochs": 3, "lr_schedule": "step", "milestones": (1, 5), "gamma": 0.5}
    train(tmp_path, batch_size=700, **flags)
    assert [e["lr"] for e in epochs_of(tmp_path)] == pytest.approx([0.01, 0.005, 0.005, 0.01, 0.01, 0.005])


def test_flips_and_size_are_those_of_the_bits_in_both_stages(tmp_path):
    model = setup(tmp_path, **TWO_STAGES).model
    flips, size = FlipRates(model), quantize.summary(model, torch.randn(1, 1, 8, 8)).packed_bytes
    quantize.use_float_weights(model, False)
    assert set(flips.update().values()) == {0.0}
    assert quantize.summary(model, torch.randn(1, 1, 8, 8)).packed_bytes == size


# Annealed schemes.


@pytest.mark.parametrize("flags", [{}, {"stage1_epochs": 2}], ids=["one stage", "two stages"])
def test_progress_rises_evenly_over_the_whole_run_and_ends_only_with_it(tmp_path, monkeypatch, flags):
    train_with_cuts(tmp_path, scheme="irnet", epochs=4, **flags)
    seen = []

    def record(session):
        seen.append([module.progress.item() for module in session.model.modules() if hasattr(module, "progress")])
        return train_epoch(session)

    train_epoch = engine.train_epoch
    monkeypatch.setattr(engine, "train_epoch", record)
    train(tmp_path / "again", scheme="irnet", epochs=4, **flags)
    assert seen == [[0, 0], [0.25, 0.25], [0.5, 0.5], [0.75, 0.75]]
    for epoch in (1, 2, 3):
        seen.clear()
        training.fit(training.setup(training.config_from_flags({"resume": str(tmp_path / f"cut{epoch}"), "gpu": ""})))
        assert seen == [[i / 4] * 2 for i in range(epoch, 4)]
