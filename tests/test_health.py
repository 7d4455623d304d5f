"""Health of layers made by hand, whose answers are known, and of runs whose layers die."""

import dataclasses
import re

import pytest
import torch
from tiny_runs import epochs_of, tiny_flags, train
from torch import nn

import models
import quantize
import training
from quantize.health import Figures, FlipRates
from training.watch.health import HealthWatch, LayerHealth, input_health, measure_health


def linear(scheme, features=4, threshold=None):
    layer = quantize.BinaryLinear(features, 2, scheme=scheme, threshold=threshold is not None)
    if threshold is not None:
        layer.threshold.data = torch.tensor(threshold)
    return layer


# Two samples of four features: constant +, constant -, both signs, both signs with a zero (+1).
X = torch.tensor([[0.5, -0.5, 0.25, 0.0], [2.0, -3.0, -0.75, -1.5]])


@pytest.mark.parametrize("scheme", ["xnor", "bnn", "bireal", "recu", "xnorpp"])
def test_a_hand_made_input(scheme):
    health = input_health(linear(scheme), X)
    assert health.sign_balance == 4 / 8  # 0.5, 0.25, 0.0, 2.0
    assert health.dead_channels == 2 / 4
    assert health.saturation == 3 / 8  # 2.0, -3.0, -1.5


def test_thresholds_count():
    health = input_health(linear("xnor", threshold=[1.0, -1.0, 5.0, 0.0]), X)
    assert health.sign_balance == 3 / 8  # -0.5 1.0 | 0.5 -2.0 | -4.75 -5.75 | 0.0 -1.5
    assert health.dead_channels == 1 / 4
    assert health.saturation == 5 / 8  # 1.0 itself has no gradient


def test_an_annealed_surrogate_saturates_as_it_sharpens():
    layer = linear("irnet")
    assert input_health(layer, X).saturation == 0
    quantize.set_progress(layer, 1.0)
    # 10 (1 - tanh^2(10 x)) < 1e-3 beyond |x| = 0.53
    assert input_health(layer, X).saturation == 4 / 8


def test_levels_count_like_signs():
    health = input_health(linear("dorefa:a_bits=1"), X)  # 1 from 1/2 on
    assert health.sign_balance == 1 / 8  # torch rounds 0.5 to 0
    assert health.dead_channels == 3 / 4
    assert health.saturation == 5 / 8


def test_channels_are_those_of_a_convolution():
    x = torch.full((3, 2, 4, 4), -1.0)
    x[2, 1, 3, 3] = 0.5
    health = input_health(quantize.BinaryConv2d(2, 1, 3, scheme="xnor"), x)
    assert dataclasses.astuple(health) == pytest.approx((1 / 96, 1 / 2, 95 / 96))


def test_layers_with_float_inputs_are_left_out():
    for scheme in ("bwn", "binaryconnect", "ternary", "dorefa:a_bits=32"):
        assert input_health(linear(scheme), X) is None
    layers = [nn.Linear(4, 4), linear("bwn"), linear("xnor", 2), nn.Linear(2, 2)]
    model = nn.Sequential(*layers)
    assert set(measure_health(model, X)) == {"2"}


def test_measuring_changes_nothing():
    model = nn.Sequential(nn.BatchNorm1d(4), linear("xnor"), nn.Dropout(0.5)).train()
    before, random_state = {n: v.clone() for n, v in model.state_dict().items()}, torch.get_rng_state()
    measure_health(model, X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in model.parameters())
    assert not model[1]._forward_pre_hooks


def test_modes_are_put_back():
    model = nn.Sequential(nn.BatchNorm1d(4).eval(), linear("xnor"), nn.Dropout(0.5))
    modes = [module.training for module in model.modules()]
    measure_health(model, X)
    assert [module.training for module in model.modules()] == modes == [True, False, True, True]


def test_flips_of_a_layer_that_draws_its_weights_are_those_of_its_signs():
    layer = linear("binaryconnect:stochastic=True").train()
    flips = FlipRates(layer)
    assert flips.update() == {"": 0.0}
    layer.weight.data.neg_()
    assert flips.update() == {"": 1.0}
    assert layer.training


def test_figures_have_the_names_that_the_trainer_gives_them():
    model = nn.Sequential(nn.Linear(4, 4), linear("xnor"))
    figures = Figures(model, X)
    model[1].weight.data.neg_()
    found = figures()
    assert found == {"flip_rate/1": 1.0} | {
        f"health/1/{name}": value for name, value in vars(measure_health(model, X)["1"]).items()
    }
    assert figures()["flip_rate/1"] == 0.0


# Warnings.


ALIVE = LayerHealth(0.5, 0.0, 0.3)


def test_a_layer_that_dies_is_said_once_and_at_the_end():
    watch = HealthWatch(2)
    flips = {"a": 0.1, "b": 0.1}
    assert watch.epoch({"a": ALIVE, "b": ALIVE}, flips) == []
    (line,) = watch.epoch({"a": ALIVE, "b": LayerHealth(1.0, 0.96, 0.3)}, flips)
    assert line.startswith("Warning: 1 of 2 binary layers (b): the signs of the inputs are constant; ")
    (line,) = watch.epoch({"a": ALIVE, "b": LayerHealth(1.0, 0.96, 0.995)}, flips)
    assert "(b): no gradient reaches the inputs" in line
    assert watch.epoch({"a": ALIVE, "b": LayerHealth(1.0, 0.96, 0.995)}, flips) == []
    assert watch.result() == ["Warning: the run ends with dead layers, 1 of 2 binary layers (b)"]
    assert watch.epoch({"a": ALIVE, "b": ALIVE}, flips) == []
    assert watch.result() == []


def test_a_layer_whose_bits_never_change_is_said_after_two_epochs():
    watch = HealthWatch(3)
    assert watch.epoch({}, {"a": 0.0, "b": 0.1, "c": 0.0}) == []
    (line,) = watch.epoch({}, {"a": 0.0, "b": 0.0, "c": 0.1})
    assert line.startswith("Warning: 1 of 3 binary layers (a): no weight has changed its sign since the start")
    assert watch.unchanged == ["a"]
    continued = HealthWatch(3, unchanged=["a"])
    assert len(continued.epoch({}, {"a": 0.0, "b": 0.0, "c": 0.0})) == 1
    assert HealthWatch(3, unchanged=[]).epoch({}, {"a": 0.0, "b": 0.0, "c": 0.0}) == []


# Runs.


@models.register_model("stock", input_size=(1, 8, 8))
def stock(num_classes=10, in_chans=1, layout="float"):
    """conv -> batch norm -> ReLU: the inputs of the inner layers are never negative."""
    layers = [nn.Conv2d(in_chans, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, num_classes))


def run_stock(run_dir, with_thresholds):
    session = training.setup(training.config_from_flags(tiny_flags(run_dir, arch="stock_xnornet", batch_size=100)))
    for layer in session.model.modules():
        if isinstance(layer, quantize.BinaryLayer) and not with_thresholds:
            assert layer.threshold is not None
            layer.threshold = None
    training.fit(session)


def test_a_run_whose_layers_die_says_so(tmp_path, capsys):
    run_stock(tmp_path / "dead", with_thresholds=False)
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith("Warning")]
    assert warnings[0].startswith("Warning: 2 of 2 binary layers (3, 6): the signs of the inputs are constant; ")
    assert lines.index(warnings[0]) == 1 + next(i for i, line in enumerate(lines) if line.startswith("Test:  [1/2]"))
    assert warnings[-1] == "Warning: the run ends with dead layers, 2 of 2 binary layers (3, 6)"
    run_stock(tmp_path / "alive", with_thresholds=True)
    assert "Warning" not in capsys.readouterr().out


def test_a_run_that_changes_no_bit_says_so_even_when_continued(tmp_path, capsys):
    flags = {"lr": 1e-12, "lr_schedule": "step", "scheme": "bnn"}
    session = train(tmp_path / "run", epochs=1, **flags)
    assert epochs_of(tmp_path / "run")[0]["unchanged"] == ["2", "5"]
    assert "Warning" not in capsys.readouterr().out
    resume = {"resume": str(session.run_dir), "epochs": 2, "gpu": ""}
    training.fit(training.setup(training.config_from_flags(resume)))
    assert re.search(r"^Warning: 2 of 2 .* no weight has changed its sign", capsys.readouterr().out, re.MULTILINE)


def test_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    session = train(tmp_path, epochs=1)
    curves = EventAccumulator(str(tmp_path)).Reload()
    images, _ = next(iter(session.data.test))
    for name, health in measure_health(session.model, images).items():
        for key, value in vars(health).items():
            (point,) = curves.Scalars(f"health/{name}/{key}")
            assert point.value == pytest.approx(value, rel=1e-6)
            assert point.step == 1
