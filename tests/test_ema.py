"""Averaged weights against the sum they stand for."""

import pytest
import torch
from cut_runs import assert_resumes_exactly, assert_same
from tiny_runs import tiny_flags, train
from torch import nn

import quantize
import training
from training.optimizer import WeightAverage
from training.watch.runlog import read_log


def test_the_average_is_the_formula_and_starts_at_the_first_weights():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.75)
    history = []
    for step in range(4):
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p))
        model(torch.randn(8, 3) + step)
        history.append({name: value.clone() for name, value in model.state_dict().items()})
        average.update_parameters(model)
    shares = [0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25]
    for name, value in average.module.state_dict().items():
        if name == "1.num_batches_tracked":
            assert value == 4
        else:
            expected = sum(share * state[name] for share, state in zip(shares, history, strict=True))
            torch.testing.assert_close(value, expected)


def test_the_average_knows_thresholds_that_the_first_batch_sets():
    model = quantize.prepare(nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(3))), "xnor")
    average = WeightAverage(model, 0.5)
    assert model[1].threshold_pending
    x = torch.rand(8, 4, 5, 5)
    model(x)
    average.update_parameters(model)
    assert_same(dict(average.module.state_dict()), dict(model.state_dict()))
    assert torch.equal(average.module(x), model.eval()(x))


def test_a_run_is_tested_and_kept_with_averaged_weights(tmp_path):
    flags = tiny_flags(tmp_path / "run", ema=0.9, epochs=2)
    session = training.setup(training.config_from_flags(flags))
    expected: dict[str, torch.Tensor] = {}

    def follow(*_):
        for name, p in session.model.named_parameters():
            expected[name] = (
                p.detach().double() * 0.1 + expected[name] * 0.9 if name in expected else p.detach().double()
            )

    session.optimizer.register_step_post_hook(follow)
    training.fit(session)
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    for name, value in expected.items():
        torch.testing.assert_close(last["model"][name].double(), value, atol=1e-6, rtol=1e-5)
        assert not torch.equal(last["model"][name], last["trained"][name])
    model, info = training.load_model(tmp_path / "run" / "last.pt")
    assert training.evaluate(model, session.data.test).top1 == info.acc1
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert_same(dict(session.model.state_dict()), best["model"])


def test_signs_that_are_drawn_in_training_are_no_flips(tmp_path):
    flags = {"scheme": "binaryconnect:stochastic=true", "lr": 1e-12, "batch_size": 100, "epochs": 1}
    session = train(tmp_path, ema=0.5, **flags)
    assert read_log(tmp_path)[1]["unchanged"] == list(session.flips.layers) != []


def test_a_run_without_keeps_one_set_of_weights(tmp_path):
    train(tmp_path, epochs=1)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trained"] is None


@pytest.mark.parametrize("scheme", ["xnor", "react"])
def test_it_resumes_exactly(tmp_path, scheme):
    assert_resumes_exactly(tmp_path, ema=0.95, scheme=scheme, batch_size=100)
