"""Recipes, and the learning rates and refusals of the flags that they are made of."""

import math

import pytest
import torch
from cut_runs import assert_resumes_exactly
from tiny_runs import epochs_of, tiny_flags, train

import training
from training import TrainConfig
from training.config import parse_flags
from training.config.defaults import FOLDER, list_recipes, read_recipe

# What a recipe says, and what it may say besides; the network and the data are the command line's.
NEEDED = {"optimizer", "lr", "weight_decay", "batch_size", "epochs", "lr_schedule"}
ALLOWED = NEEDED | {"milestones", "gamma", "momentum", "warmup_epochs", "clip_weights", "augment"}
ALLOWED |= {"loss", "label_smoothing", "mixup", "random_erasing", "stage1_epochs", "distill_weight", "ema"}


def config_of(*argv):
    return TrainConfig.create(**parse_flags(argv))


# Files.


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_whole_explained_and_of_one_flag_a_line(name):
    flags = parse_flags(read_recipe(name))
    assert flags.keys() >= NEEDED
    assert flags.keys() <= ALLOWED
    first, *lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    assert first.startswith("# ")
    assert all(line.startswith("# ") or line.count("--") == 1 for line in lines)
    config_of("--arch", "nin_xnornet", "--recipe", name)


def test_the_published_recipes():
    sgd = config_of("--arch", "nin", "--recipe", "sgd-steps")
    assert (sgd.optimizer, sgd.lr, sgd.momentum, sgd.weight_decay, sgd.batch_size) == ("sgd", 0.1, 0.9, 1e-4, 100)
    assert (sgd.lr_schedule, sgd.gamma, sgd.milestones) == ("step", 0.1, (sgd.epochs // 2, sgd.epochs * 3 // 4))
    adam = config_of("--arch", "resnet18", "--recipe", "adam-steps")
    assert (adam.optimizer, adam.lr, adam.weight_decay, adam.batch_size) == ("adam", 0.01, 1e-5, 128)
    assert (adam.epochs, adam.milestones, adam.gamma) == (320, (120, 200, 240, 280), 0.1)
    lenet = config_of("--arch", "lenet5", "--dataset", "mnist", "--recipe", "lenet5-steps")
    assert (lenet.epochs, lenet.milestones, lenet.lr) == (60, (15, 30, 45), 0.01)


def test_networks_have_recipes_of_their_own():
    for arch in ("nin", "nin_gc_xnornet"):
        own, named = config_of("--arch", arch), config_of("--arch", arch, "--recipe", "adam-steps")
        assert own.recipe is None
        assert vars(own) | {"recipe": "adam-steps"} == vars(named)
    assert (config_of("--arch", "lenet5").lr, config_of("--arch", "resnet18").lr) == (0.01, 0.001)


@pytest.mark.parametrize("arch", ["mlp", "mlp_xnornet", "cnn", "cnn_xnornet", "cnn_svhn_xnornet"])
def test_the_reference_networks_train_with_squared_hinge_loss_and_an_exponential_schedule(arch):
    config = config_of("--arch", arch)
    assert (config.loss, config.lr_schedule, config.optimizer) == ("squared_hinge", "exponential", "adam")
    assert config.lr * config.gamma == pytest.approx(3e-7)


def test_a_flag_overrides_its_recipe_and_a_recipe_all_defaults():
    config = config_of("--arch", "nin", "--dataset", "digits", "--recipe", "sgd-steps", "--lr", "0.05", "--epochs", "8")
    assert (config.lr, config.epochs, config.milestones) == (0.05, 8, (4, 6))
    assert (config.batch_size, config.lr_schedule) == (100, "step")  # not the 32 and the cosine of the digits
    assert config_of("--arch", "nin", "--recipe", "adam-cosine").weight_decay == 0  # not that of the network's own
    assert config_of("--recipe", "sgd-steps", "--lr-schedule", "cosine").lr_schedule == "cosine"
    assert config_of("--recipe", "adam-cosine", "--milestones", "7").lr_schedule == "step"


@pytest.mark.parametrize("argv", [["--milestones", "5", "8"], ["--lr-schedule", "step"]])
def test_another_schedule_leaves_the_gamma_of_the_recipes_own(argv):
    exponential = TrainConfig.create(arch="mlp_bnn", dataset="mnist", lr_schedule="exponential")
    step = TrainConfig.create(**parse_flags(["--arch", "mlp_bnn", "--dataset", "mnist", *argv]))
    assert (exponential.gamma, step.gamma) == (1e-4, 0.1)
    assert TrainConfig.create(arch="mlp_bnn", dataset="mnist", lr_schedule="step", gamma=0.5).gamma == 0.5


def test_an_unknown_recipe_has_close_names():
    with pytest.raises(ValueError, match=r"unknown recipe 'sgd-step': did you mean 'sgd-steps'.* valid: adam-cosine, "):
        config_of("--recipe", "sgd-step")


def test_the_whole_configuration_is_saved_and_continued(tmp_path):
    train(tmp_path, recipe="sgd-steps", epochs=4)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["config"]
    assert (saved["recipe"], saved["milestones"], saved["batch_size"], saved["lr"]) == ("sgd-steps", (2, 3), 100, 0.1)
    again = {"resume": str(tmp_path), "epochs": 6}
    config = training.config_from_flags({**again, "recipe": "sgd-steps"})
    assert (config.epochs, config.milestones) == (6, (2, 3))
    with pytest.raises(ValueError, match=r"--recipe two-stage contradicts '.*', which was trained with sgd-steps"):
        training.config_from_flags({**again, "recipe": "two-stage"})


# Shares of the epochs.


def test_milestones_are_epochs_or_shares():
    assert config_of("--epochs", "10", "--milestones", "0.25", "0.5", "8").milestones == (2, 5, 8)
    assert config_of("--epochs", "1", "--milestones", "0.25", "0.75", "0.9").milestones == (1,)
    assert config_of("--arch", "nin_xnornet", "--epochs", "7", "--stage1-epochs", "0.5").stage1_epochs == 4
    with pytest.raises(ValueError, match="--milestones 8 2 must rise"):
        config_of("--epochs", "10", "--milestones", "0.75", "0.25")


@pytest.mark.parametrize("value", ["1.5", "-3", "half", "nan", "inf"])
def test_what_is_neither_is_refused(value, capsys):
    with pytest.raises(SystemExit):
        parse_flags([f"--stage1-epochs={value}"])
    assert f"{value!r} is neither a number of epochs nor a share between 0 and 1" in capsys.readouterr().err


def test_shares_are_no_contradiction_to_the_epochs_that_they_became(tmp_path):
    train(tmp_path, epochs=4, lr_schedule="step", milestones=(0.5, 0.75))
    flags = {"resume": str(tmp_path), "epochs": 8}
    with pytest.raises(ValueError, match=r"--milestones \(4, 6\) contradicts .* trained with \(2, 3\)"):
        training.config_from_flags({**flags, "milestones": (0.5, 0.75)})
    assert training.config_from_flags({**flags, "milestones": (0.25, 3)}).milestones == (2, 3)


# Learning rates, as the log has them.


def rates(run_dir, epochs, **flags):
    train(run_dir, epochs=epochs, lr=0.01, batch_size=700, **flags)
    return [entry["lr"] for entry in epochs_of(run_dir)]


def test_exponential_falls_to_gamma_over_the_run(tmp_path):
    expected = [0.01 * 1e-4 ** (i / 4) for i in range(4)]
    assert rates(tmp_path, 4, lr_schedule="exponential", gamma=1e-4) == pytest.approx(expected)


def test_linear_falls_to_zero(tmp_path):
    assert rates(tmp_path, 4, lr_schedule="linear") == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_warm_up_rises_before_the_schedule(tmp_path):
    cosine = [0.005 * (1 + math.cos(math.pi * i / 3)) for i in range(3)]
    flags = {"warmup_epochs": 2}
    found = rates(tmp_path / "cosine", 5, lr_schedule="cosine", **flags)
    assert found == pytest.approx([0.01 / 3, 0.02 / 3, *cosine])
    found = rates(tmp_path / "step", 5, lr_schedule="step", milestones=(3,), **flags)
    assert found == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    "flags",
    [
        {"warmup_epochs": 2, "lr_schedule": "cosine"},
        {"lr_schedule": "exponential", "gamma": 0.01, "loss": "squared_hinge"},
    ],
    ids=["warm-up", "exponential"],
)
def test_schedules_resume_exactly(tmp_path, flags):
    assert_resumes_exactly(tmp_path, batch_size=200, **flags)


def test_a_resumed_run_keeps_the_length_that_its_schedule_is_laid_out_over(tmp_path):
    train(tmp_path, epochs=1, lr_schedule="exponential")
    with pytest.raises(ValueError, match="--epochs 3 contradicts"):
        training.config_from_flags({"resume": str(tmp_path), "epochs": 3})


# The rest.


def test_the_optimizer_decays_weights_alone(tmp_path):
    flags = tiny_flags(tmp_path, scheme="react", weight_decay=0.5)
    session = training.setup(training.config_from_flags(flags))
    names = {id(p): name for name, p in session.model.named_parameters()}
    decayed = {names[id(p)] for g in session.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {"0.weight", "2.weight", "5.weight", "9.weight"}
    assert {"2.threshold", "5.threshold", "1.weight"} <= set(names.values())


def test_the_loss_that_is_asked_for_is_trained_and_tested(tmp_path):
    entropy, hinge = (train(tmp_path / loss, epochs=1, loss=loss) for loss in ("cross_entropy", "squared_hinge"))
    assert epochs_of(entropy.run_dir)[0]["train"]["loss"] > 1.5  # log 10 at first
    assert epochs_of(hinge.run_dir)[0]["train"]["loss"] < 1.5  # 1 where all outputs are 0
    for session, loss in ((entropy, torch.nn.functional.cross_entropy), (hinge, session_hinge)):
        outputs, labels = zip(*((session.model(x).detach(), y) for x, y in session.data.test), strict=True)
        expected = loss(torch.cat(outputs), torch.cat(labels)).item()
        assert epochs_of(session.run_dir)[0]["test"]["loss"] == pytest.approx(expected, rel=1e-5)


def session_hinge(outputs, labels):
    signs = 2.0 * torch.nn.functional.one_hot(labels, 10) - 1
    return (1 - signs * outputs).clamp_min(0).square().mean()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--loss", "hinge"], "unknown --loss 'hinge': did you mean 'squared_hinge'"),
        (["--label-smoothing", "1.5"], "--label-smoothing is 1.5; it must lie between 0 and 1"),
        (["--random-erasing", "-0.1"], "--random-erasing is -0.1; it must lie between 0 and 1"),
        (["--mixup", "-1"], "--mixup is -1.0; it must be at least 0"),
        (["--ema", "1"], "--ema is 1.0; it must be at least 0 and below 1"),
        (["--distill-weight", "0.5"], "--distill-weight 0.5 has no meaning without --teacher"),
        (["--epochs", "4", "--stage1-epochs", "4"], "--stage1-epochs is 4; it must be .* below the 4 --epochs"),
        (["--arch", "nin", "--stage1-epochs", "4"], "--stage1-epochs 4 needs binary layers, and 'nin' has none"),
        (["--epochs", "4", "--warmup-epochs", "4"], "--warmup-epochs is 4; it must be below the 4 epochs the run has"),
        (["--epochs", "9", "--stage1-epochs", "2", "--warmup-epochs", "3"], "below the 2 epochs a stage has"),
        (["--epochs", "9", "--warmup-epochs", "3", "--milestones", "2"], "--milestones 2 lies within the 3 --warmup"),
    ],
)
def test_values_that_cannot_be_used(argv, message):
    with pytest.raises(ValueError, match=message):
        config_of(*argv)
