"""Flags and defaults: what is not said follows the network and the set, what cannot be is refused."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import call, train

import models
import quantize
from quantize import words
from quantize.export.formats import FORMATS
from training import TrainConfig, config_from_flags
from training.config import flag_table, make_parser, parse_flags
from training.config.defaults import NETWORKS, list_schemes
from training.config.flags import did_you_mean, flags_of
from training.data import AUGMENTATIONS, DATASETS, PRESETS
from training.execution import PRECISIONS, select_device
from training.objective import LOSSES
from training.optimizer import OPTIMIZERS

ROOT = Path(__file__).resolve().parent.parent


def config_of(*argv):
    return TrainConfig.create(**parse_flags(argv))


def test_every_field_has_a_flag_and_every_flag_a_field():
    flags = {action.dest for action in make_parser()._actions} - {"help"}
    assert flags == {field.name for field in dataclasses.fields(TrainConfig)}


def test_the_help_names_defaults_that_no_network_changes():
    texts, config = {action.dest: action.help for action in make_parser()._actions}, TrainConfig.create()
    for name in ("arch", "dataset", "momentum", "seed", "data_dir", "accumulate", "export_format"):
        assert texts[name].endswith(f"default: {getattr(config, name)}")


def test_the_flags_of_older_trainers_are_known():
    flags = parse_flags(["--valuate", "a.pt", "--schedule", "10", "20", "--wd", "0.1", "-b", "7", "-j", "0"])
    assert flags == {
        "evaluate": "a.pt",
        "milestones": (10, 20),
        "lr_schedule": "step",
        "weight_decay": 0.1,
        "batch_size": 7,
        "workers": 0,
    }


WITHOUT_TORCH = """
import sys
import trainer_exp
try:
    code = trainer_exp.main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = {"torch", "numpy", "quantize", "models"} & sys.modules.keys()
print("loaded:", *heavy, "code:", code)
"""


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["--help"], 0, "--milestones EPOCH"),
        (["--epoch", "3"], 2, "unrecognized arguments: --epoch 3"),
        (["--epochs", "some"], 2, "--epochs: invalid int value: 'some'"),
        (["--epochs", "0"], 2, "--epochs is 0; it must be at least 1"),
        (["--optimizer", "adm"], 2, "unknown --optimizer 'adm': did you mean 'adam'"),
        (["--dataset", "minst"], 2, "unknown dataset 'minst': did you mean 'mnist'"),
        (["--recipe", "sgd"], 2, "unknown recipe 'sgd'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_what_is_mistyped_need_no_torch(argv, code, said):
    command = [sys.executable, "-c", WITHOUT_TORCH, *argv]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said in run.stdout + run.stderr
    assert run.stdout.endswith(f"loaded: code: {code}\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--wd", "-1"], "--wd is -1.0; it must be at least 0"),
        (["--schedule", "9", "3"], "--schedule 9 3 must rise"),
        (["-b0"], "-b is 0; it must be at least 1"),
        (["-b", "x"], "argument -b: invalid int value: 'x'"),
        (["--batch-size", "x"], "argument --batch-size: invalid int value: 'x'"),
        (["--batch-size=0"], "--batch-size is 0"),
        (["--recipe", "sgd-steps", "--epochs", "8", "--warmup-epochs", "4"], "milestones of the recipe 4 lies within"),
        (["--arch", "nin", "--recipe", "two-stage"], "stage1 epochs of the recipe 100 needs binary layers"),
        (["--valuate", "no.pt"], "there is no checkpoint 'no.pt'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_names_flags_as_they_were_typed(argv, said, capsys):
    assert call(*argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"trainer_exp.py: error: {said}")
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", error.partition(";")[0]))
    assert named <= {word.partition("=")[0] for word in argv} | {"-b"}


def test_names_that_flags_take_are_those_of_the_registries():
    choices = {field.name: flag.choices for field, flag in flags_of(TrainConfig) if flag.choices}
    registries = {
        "dataset": DATASETS,
        "normalize": PRESETS,
        "augment": AUGMENTATIONS,
        "optimizer": OPTIMIZERS,
        "loss": LOSSES,
        "amp": PRECISIONS,
        "export_format": FORMATS,
    }
    assert choices.keys() - registries.keys() == {"lr_schedule", "recipe"}
    assert {name: set(choices[name]) for name in registries} == {name: set(names) for name, names in registries.items()}


def test_names_that_the_help_shows_are_those_that_come_with_the_packages():
    registered = models.registry._REGISTRY.items()
    assert set(NETWORKS) == {name for name, entry in registered if entry.build.__module__.startswith("models.")}
    own = {name for name, cls in quantize.scheme._REGISTRY.items() if cls.__module__.startswith("quantize.")}
    assert set(list_schemes()) == own


@pytest.mark.parametrize("valid", [["adam", "sgd"], [f"name{i}" for i in range(20)], ["nothing"]])
def test_what_was_meant_is_said_in_the_words_of_quantize(valid):
    assert did_you_mean("adm", valid) == words.did_you_mean("adm", valid)


def test_the_guide_has_every_flag():
    assert flag_table(TrainConfig) + "\n" in (ROOT / "READMEs" / "training.md").read_text()


def test_values_of_another_type_are_named():
    for name, value in {"lr": "0.1", "epochs": 2.5, "overrides": ["2"], "arch": None, "compile": 1}.items():
        with pytest.raises(ValueError, match=f"^--{'override' if name == 'overrides' else name} is "):
            TrainConfig.create(**{name: value})
    with pytest.raises(ValueError, match="unknown flag 'learning_rate'"):
        TrainConfig.create(learning_rate=1)
    assert TrainConfig.create(lr=1, lr_schedule="step", milestones=[3, 9]).milestones == (3, 9)


@pytest.mark.parametrize("dataset", sorted(DATASETS))
@pytest.mark.parametrize("arch", models.list_models())
def test_network_and_set_are_all_that_need_be_said(arch, dataset):
    config = config_of("--arch", arch, "--dataset", dataset)
    assert config.epochs >= 1
    assert config.keep_float == models.resolve(arch).keep_float
    assert config.input_size == models.resolve(arch).input_size


def test_the_recipes_milestones_follow_the_epochs():
    assert config_of("--arch", "nin", "--dataset", "cifar10").milestones == (120, 200, 240, 280)
    assert config_of("--arch", "nin", "--dataset", "cifar10", "--epochs", "32").milestones == (12, 20, 24, 28)
    assert config_of("--arch", "nin", "--dataset", "cifar10", "--epochs", "1").milestones in {(), (1,)}
    assert config_of("--arch", "nin", "--dataset", "cifar10", "--milestones", "3", "9").milestones == (3, 9)


def test_the_scheme_is_the_flags_or_the_names():
    assert config_of("--arch", "nin_xnornet").effective_scheme == "xnor"
    assert config_of("--arch", "nin_xnornet", "--scheme", "bnn").effective_scheme == "bnn"
    assert config_of("--arch", "nin_xnornet", "--scheme", "none").effective_scheme is None
    assert config_of("--arch", "nin").effective_scheme is None


def test_latent_weights_are_clipped_by_the_schemes_that_need_it():
    assert config_of("--arch", "nin_xnornet").clip_weights == 0
    assert config_of("--arch", "nin_bnn").clip_weights == 1
    assert config_of("--arch", "nin", "--scheme", "binaryconnect:stochastic=true").clip_weights == 1
    assert config_of("--arch", "nin_bnn", "--clip-weights", "0").clip_weights == 0


def test_overrides_are_collected():
    config = config_of("--override", "a.b=none", "--override", "c.*=dorefa:w_bits=1,a_bits=2")
    assert config.overrides == {"a.b": None, "c.*": "dorefa:w_bits=1,a_bits=2"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "--epochs is 0; it must be at least 1"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--lr", "0"], "--lr is 0.0; it must be positive"),
        (["--weight-decay", "-1"], "--weight-decay is -1.0; it must be at least 0"),
        (["--img-size", "0"], "--img-size is 0"),
        (["--seed", str(2**63)], "--seed is 9223372036854775808; it must fit into 64 bits"),
        (["--optimizer", "adm"], "unknown --optimizer 'adm': did you mean 'adam'"),
        (["--lr-schedule", "cos"], "unknown --lr-schedule 'cos': did you mean 'cosine'"),
        (["--milestones", "9", "3"], "--milestones 9 3 must rise"),
        (["--milestones", "0", "3"], "--milestones 0 3 must rise, from 1 or more"),
        (["--augment", "flip"], "unknown augmentation 'flip': did you mean 'crop_flip'"),
        (["--scheme", "xnr"], "unknown scheme 'xnr': did you mean 'xnor'"),
        (["--override", "a=xnr"], "unknown scheme 'xnr'"),
        (["--arch", "nin_gcc"], "unknown network 'nin_gcc': did you mean 'nin_gc'"),
        (["--dataset", "minst"], "unknown dataset 'minst': did you mean 'mnist'"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(argv, message):
    with pytest.raises(ValueError, match=message):
        config_of(*argv)


@pytest.mark.parametrize("argv", [["--epochs", "many"], ["--no-such-flag"], ["--override", "a"], ["--arch"]])
def test_a_flag_that_cannot_be_parsed_gives_one_line(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_flags(argv)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith("trainer_exp.py: error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["", "cpu", "none", "-1"])
def test_names_of_the_cpu(name):
    assert select_device(parse_flags(["--gpu", name])["gpu"]).type == "cpu"


def test_devices(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(select_device("1")) == "cuda:1"
    with pytest.raises(ValueError, match="there is no GPU '7'; valid: 0, 1, or --gpu cpu for the CPU"):
        select_device("7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match="there is no GPU '0'; valid: --gpu cpu for the CPU"):
        select_device("0")


def test_a_resumed_run_keeps_its_configuration_and_refuses_another(tmp_path):
    train(tmp_path / "step", epochs=1, lr_schedule="step", milestones=(1,), seed=4)
    resume = {"resume": str(tmp_path / "step")}
    config = config_from_flags({**resume, "epochs": 3, "seed": 4})
    assert (config.arch, config.seed, config.epochs, config.milestones) == ("tiny_xnornet", 4, 3, (1,))
    with pytest.raises(ValueError, match="nothing is left to train; ask for more of them with --epochs"):
        config_from_flags(resume)
    with pytest.raises(ValueError, match=r"--lr 0.5 contradicts '.*last.pt', which was trained with 0.001; leave"):
        config_from_flags({**resume, "epochs": 3, "lr": 0.5})
    with pytest.raises(ValueError, match="--arch nin contradicts"):
        config_from_flags({**resume, "arch": "nin"})
    with pytest.raises(ValueError, match="--override {'2': 'bwn'} contradicts"):
        config_from_flags({**resume, "epochs": 3, "overrides": {"2": "bwn"}})
    train(tmp_path / "cosine", epochs=1, lr_schedule="cosine")
    saved = config_from_flags({**resume, "epochs": 3}).milestones
    implied = parse_flags(["--resume", str(tmp_path / "cosine"), "--milestones", *map(str, saved)])
    with pytest.raises(ValueError, match="^--milestones"):
        config_from_flags(implied)
    with pytest.raises(ValueError, match="nothing is left .* its cosine learning rate is laid out .* --pretrained"):
        config_from_flags({"resume": str(tmp_path / "cosine")})
    with pytest.raises(ValueError, match="--epochs 3 contradicts"):  # the cosine is laid out over its epochs
        config_from_flags({"resume": str(tmp_path / "cosine"), "epochs": 3})


def test_every_scheme_can_end_a_networks_name():
    for scheme in quantize.list_schemes():
        assert config_of("--arch", f"lenet5_{scheme}").effective_scheme == scheme
