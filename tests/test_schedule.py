"""The learning rate as a pure function of the step, and a run that follows it with every update."""

import math

import pytest
import torch
from cut_runs import train_with_cuts
from tiny_runs import setup, train

import training
from training import TrainConfig, engine
from training.schedule import LR_SCHEDULES, learning_rate

STEPS = 20  # an epoch


def rates(epochs=5, **flags):
    """The rate of each step, as a share of --lr."""
    config = TrainConfig.create(arch="nin_xnornet", epochs=epochs, lr=0.5, **flags)
    return [learning_rate(config, step, STEPS) / 0.5 for step in range(epochs * STEPS)]


# Of the part p of the schedule that is done, 0 to 1.
FORMULAS = {
    "cosine": lambda p: math.cos(math.pi * p / 2) ** 2,
    "linear": lambda p: 1 - p,
    "exponential": lambda p: math.exp(math.log(0.01) * p),
}


@pytest.mark.parametrize("warmup", [0, 0.25, 1, 2.5])
@pytest.mark.parametrize("schedule", FORMULAS)
def test_a_rate_falls_with_every_step_from_the_end_of_the_warm_up_on(schedule, warmup):
    found = rates(lr_schedule=schedule, gamma=0.01, warmup_epochs=warmup)
    rise, fall = found[: int(warmup * STEPS)], found[int(warmup * STEPS) :]
    parts = [i / (5 * STEPS - warmup * STEPS) for i in range(len(fall))]
    assert fall == pytest.approx([FORMULAS[schedule](p) for p in parts])
    start = 1 / 3.5 if warmup == 2.5 else 1 / 3
    assert rise == pytest.approx([start + (1 - start) * i / len(rise) for i in range(len(rise))])


def test_steps_fall_at_the_first_step_behind_a_milestone():
    found = rates(lr_schedule="step", milestones=(1, 3), gamma=0.5)
    assert found == [1] * STEPS + [0.5] * 2 * STEPS + [0.25] * 2 * STEPS


@pytest.mark.parametrize(("warmup", "top"), [(0, 30), (1, 20), (0.5, 10)])
def test_one_cycle_rises_to_the_top_and_falls_to_nearly_nothing(warmup, top):
    found = rates(lr_schedule="one-cycle", warmup_epochs=warmup)
    assert found[0] == pytest.approx(1 / 25)
    assert found[top] == max(found) == 1
    assert found[top // 2] == pytest.approx((1 + 1 / 25) / 2)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert 0 < found[-1] < 1e-3


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_stage_has_the_schedule_of_a_run_of_its_length(schedule):
    two = rates(epochs=8, stage1_epochs=3, lr_schedule=schedule, milestones=(2, 5))
    first, second = (rates(epochs=n, lr_schedule=schedule, milestones=(2,)) for n in (3, 5))
    assert two == pytest.approx(first + second)


def test_every_update_has_its_own_rate(tmp_path):
    session = setup(tmp_path, epochs=2, batch_size=100, lr_schedule="cosine", lr=0.01, accumulate=2)
    used = []
    session.optimizer.register_step_pre_hook(lambda optimizer, *_: used.extend(g["lr"] for g in optimizer.param_groups))
    training.fit(session)
    expected = [0.01 * FORMULAS["cosine"](step / 14) for step in range(14)]  # 7 updates an epoch
    assert used[:: len(session.optimizer.param_groups)] == pytest.approx(expected)


@pytest.mark.parametrize(("schedule", "changes"), [("cosine", True), ("step", False)])
def test_a_checkpoint_of_an_older_version_goes_on_and_says_what_becomes_of_its_schedule(
    tmp_path, schedule, changes, capsys
):
    train_with_cuts(tmp_path, epochs=2, batch_size=200, lr_schedule=schedule)
    old = torch.load(tmp_path / "cut1" / "last.pt", weights_only=True)
    old["scheduler"] = {"base_lrs": [0.001, 0.001], "last_epoch": 1, "_step_count": 2, "_last_lr": [0.0005, 0.0005]}
    del old["optimizer"]["kept"]
    for group in old["optimizer"]["param_groups"]:
        group["initial_lr"] = 0.001
    torch.save(old, tmp_path / "cut1" / "last.pt")
    capsys.readouterr()
    training.fit(training.setup(training.config_from_flags({"resume": str(tmp_path / "cut1"), "gpu": ""})))
    said = f"whose learning rate changed once an epoch; it now changes with every step, along the same {schedule}"
    assert (said in capsys.readouterr().out) == changes
    if changes:
        assert engine.read_checkpoint(tmp_path / "cut1")["optimizer"]["param_groups"][0]["lr"] < 0.0001


def test_one_cycle_trains(tmp_path):
    assert train(tmp_path, epochs=6, lr=0.02, lr_schedule="one-cycle").best_acc1 > 85
