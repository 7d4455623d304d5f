"""tools/reproduce.py: every target can be run, a cut one goes on, a finished one is left alone."""

import argparse
import subprocess

import pytest
import torch

import models
import quantize
import training
from quantize.scheme import preferred_layouts
from tools import reproduce
from tools.reproducing.jobs import ALL, Job, Target
from tools.reproducing.targets import IMAGES_OF, SECTIONS
from training import engine
from training.config import TrainConfig, parse_flags
from training.watch.runlog import read_log

JOBS = [Job(target) for target in ALL.values()]
IMAGES_JOBS = [Job(target, images=True) for target in ALL.values() if target.section == IMAGES_OF]
CLASSES = {"ImageNet": 1000}


def config_of(job):
    return TrainConfig.create(**parse_flags(job.flags))


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_a_target_parses_and_its_network_builds(job):
    config, classes = config_of(job), CLASSES.get(job.target.section, 10)
    assert config.epochs == job.target.epochs
    with torch.device("meta"):  # shapes without values: all of them take seconds
        model = models.create_model(config.arch, num_classes=classes, schemes=preferred_layouts())
        if config.effective_scheme is not None:
            model = quantize.prepare(model, config.effective_scheme, keep_float=config.keep_float, inplace=True)
            quantize.set_progress(model, 0.0)
        assert model(torch.zeros(2, *config.input_size)).shape == (2, classes)
    binary = any(isinstance(module, quantize.BinaryLayer) for module in model.modules())
    assert binary == (job.target.float_twin is not None)


@pytest.mark.parametrize("job", IMAGES_JOBS, ids=lambda job: job.name)
def test_a_target_on_a_tree_of_pictures_differs_in_its_data_only(job):
    images, plain = vars(config_of(job)), vars(config_of(Job(job.target)))
    changed = {name: images[name] for name in images if images[name] != plain[name]}
    assert changed == {"dataset": "imagefolder", "normalize": "cifar10"}


@pytest.mark.parametrize("target", [t for t in ALL.values() if t.float_twin], ids=lambda target: target.name)
def test_a_float_twin_is_float_on_the_same_data_for_as_long(target):
    twin = ALL[target.float_twin]
    assert config_of(Job(twin)).effective_scheme is None
    assert (twin.section, twin.epochs) == (target.section, target.epochs)


def test_names_of_runs_differ():
    jobs = [*IMAGES_JOBS, *JOBS, *(Job(job.target, job.images, 1) for job in JOBS if job.target.epochs > 1)]
    assert len({job.name for job in jobs}) == len(jobs)
    assert Job(ALL["nin"], epochs=200).name == Job(ALL["nin"]).name == "nin"


def test_learning_rates_fall_where_published():
    milestones = {name: config_of(Job(ALL[name])).milestones for name in ALL if name.endswith("_published")}
    assert milestones["nin_xnornet_published"] == (150, 225)
    assert milestones["nin_dropout_xnornet_published"] == (120, 200, 240, 280)
    assert milestones["lenet5_xnornet_published"] == (15, 30, 45)
    short = config_of(Job(ALL["nin_xnornet_published"], epochs=20))
    assert (short.epochs, short.milestones, short.lr_schedule) == (20, (10, 15), "step")


def test_a_shorter_budget_names_its_epochs_once():
    short = Job(ALL["resnet18_imagenet"], epochs=3)  # has epochs of its own
    assert short.flags.count("--epochs") == 1
    whole = vars(config_of(Job(short.target)))
    assert {name for name, value in vars(config_of(short)).items() if value != whole[name]} == {"epochs", "milestones"}


def test_the_published_recipe_of_the_networks_in_network():
    config = config_of(Job(ALL["nin_gc_xnornet_published"]))
    found = (config.optimizer, config.momentum, config.weight_decay, config.batch_size, config.augment)
    assert found == ("sgd", 0.9, 1e-4, 100, "crop_flip")


def test_pictures_are_augmented_as_their_size_suggests():
    expected = {"MNIST": "shift", "CIFAR-10": "crop_flip", "SVHN": "shift", "ImageNet": "resized_crop"}
    for job in JOBS:
        plain = ("hinge" in job.command or "lenet5-steps" in job.command) and not job.name.endswith("_shift")
        wanted = "none" if plain else expected[job.target.section.partition(",")[0]]
        assert config_of(job).augment == wanted, job.name


def test_every_network_of_the_published_tables_has_a_row():
    archs = {(job.target.section, config_of(job).arch) for job in JOBS}
    for arch in ("nin", "nin_gc", "nin_dropout", "resnet18", "resnet20", "resnet34", "vgg11", "vgg13", "vgg16", "cnn"):
        assert {("CIFAR-10", f"{arch}_xnornet")} <= archs
    assert {("CIFAR-10", f"resnet18_{scheme}") for scheme in ("bireal", "react", "irnet")} <= archs
    assert {("MNIST", f"{arch}_xnornet") for arch in ("lenet5", "mlp", "resnet18")} <= archs
    assert {("SVHN", "cnn_svhn_xnornet"), ("ImageNet", "alexnet_xnornet"), ("ImageNet", "alexnet_bwn")} <= archs
    assert {("ImageNet", f"resnet18_imagenet_{scheme}") for scheme in ("xnornet", "bireal", "react")} <= archs


def test_every_scheme_has_a_row_with_the_same_budget():
    rows = {name.removeprefix("scheme_"): config_of(Job(ALL[name])) for name in ALL if name.startswith("scheme_")}
    built_in = {name for name in quantize.list_schemes() if hasattr(quantize.schemes, name)}
    assert rows.keys() == {"float"} | built_in
    for name, config in rows.items():
        assert (config.effective_scheme or "float") == name
        same = ("arch", "dataset", "epochs", "batch_size", "optimizer", "lr", "lr_schedule", "augment", "seed")
        assert [getattr(config, key) for key in same] == [getattr(rows["float"], key) for key in same]


# Runs.


@pytest.fixture
def tiny(monkeypatch):
    """A target that trains in seconds."""
    monkeypatch.setitem(SECTIONS, "Digits", "--dataset digits")
    flags = "--arch lenet5_xnornet --recipe adam-cosine --lr 0.01 --epochs 2"
    target = Target("tiny", "Digits", flags, "97", None)
    monkeypatch.setitem(ALL, "tiny", target)
    return target


@pytest.fixture
def arguments(tmp_path):
    return ["--runs", str(tmp_path / "runs"), "--folder", str(tmp_path / "page"), "--gpu", ""]


def cut_after_an_epoch(job, run_dir, monkeypatch):
    """Leave ``run_dir`` as Ctrl-C in the second epoch does."""

    def save_and_stop(*args):
        save(*args)
        raise KeyboardInterrupt

    save = engine.save
    flags = parse_flags([*job.flags, "--log-path", str(run_dir), "--gpu", ""])
    session = training.setup(training.config_from_flags(flags))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            training.fit(session)


def test_a_cut_target_is_resumed_and_a_finished_one_skipped(tiny, tmp_path, monkeypatch, arguments, capfd):
    run_dir = tmp_path / "runs" / "tiny"
    cut_after_an_epoch(Job(tiny), run_dir, monkeypatch)
    assert [entry["kind"] for entry in read_log(run_dir)] == ["run", "epoch"]

    assert reproduce.main(["tiny", *arguments]) == 0
    assert "tiny: continues in" in capfd.readouterr().out
    log = read_log(run_dir)
    assert [entry["epochs_done"] for entry in log if entry["kind"] == "run"] == [0, 1]
    assert [entry["epoch"] for entry in log if entry["kind"] == "epoch"] == [1, 2]
    row = next(line for line in (tmp_path / "page" / "results.md").read_text().splitlines() if "| tiny |" in line)
    assert f"| 97 | {log[-1]['best_acc1']:.2f} | {log[-1]['last_acc1']:.2f} |" in row
    assert f"`{Job(tiny).command}`" in row

    monkeypatch.setattr(subprocess, "run", None)
    assert reproduce.main(["tiny", *arguments]) == 0
    assert "tiny: finished already" in capfd.readouterr().out


@pytest.fixture
def trainer(monkeypatch):
    """The trainer's command lines; it ends with ``codes``, and trains nothing."""
    calls = argparse.Namespace(lines=[], codes=[])

    def run(command):
        calls.lines.append(command[2:])
        return subprocess.CompletedProcess(command, calls.codes.pop(0))

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_failure_does_not_stop_the_others_but_ctrl_c_does(trainer, arguments):
    trainer.codes = [2, 1, 130]
    names = ["lenet5_float", "mlp_float", "lenet5_xnornet", "mlp_xnornet"]
    assert reproduce.main([*names, *arguments]) == 2
    assert len(trainer.lines) == 3


def test_flags_that_say_where(trainer, arguments, tmp_path):
    trainer.codes = [1, 1]
    reproduce.main(["nin", "--images", "pictures", "--epochs", "7", *arguments])
    flags = parse_flags(trainer.lines[0])
    assert (flags["dataset"], flags["data_dir"], flags["epochs"]) == ("imagefolder", "pictures", 7)
    assert flags["log_path"] == str(tmp_path / "runs" / "nin_images_7epochs")
    assert flags["gpu"] == ""
    reproduce.main(["nin", "--data-dir", "sets", *arguments])
    flags = parse_flags(trainer.lines[1])
    assert (flags["dataset"], flags["data_dir"]) == ("cifar10", "sets")


def test_patterns():
    names = [target.name for target in reproduce.choose(["lenet5_float", "lenet5_*"], images=False)]
    assert sorted(names) == sorted(name for name in ALL if name.startswith("lenet5_"))
    assert [target.name for target in reproduce.choose(["resnet18*react"], images=True)] == ["resnet18_react"]


def test_the_list_has_every_target_and_its_command(capsys):
    assert reproduce.main(["--list"]) == 0
    shown = capsys.readouterr().out
    for job in JOBS:
        assert job.command in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "name a target, or list them with --list"),
        (["nin_xnor"], "there is no target 'nin_xnor': did you mean 'nin_xnornet'"),
        (["mlp*", "--images", "d"], "there is no target 'mlp*' for --images"),
        (["mlp_float", "--images", "d"], "target 'mlp_float' is of MNIST; --images is for CIFAR-10"),
        (["nin", "--epochs", "0"], "--epochs is 0; target 'nin' takes 1 to 200"),
        (["nin", "--epochs", "201"], "--epochs is 201; target 'nin' takes 1 to 200"),
        (["nin", "--images", "d", "--data-dir", "e"], "leave out --data-dir e"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(line, message, arguments, capsys):
    assert reproduce.main([*line, *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
