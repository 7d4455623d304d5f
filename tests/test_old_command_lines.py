"""Command lines of older projects run as they are."""

import dataclasses
import shlex

import pytest
from tiny_runs import call, epochs_of

from training import TrainConfig
from training.config import parse_flags
from training.data import DATASETS, datasets

LINES = """
--arch nin --dataset cifar10 --lr 0.1 --gpu 1 --valuate --epochs 200 --deterministic --workers 1
--arch nin_gc --dataset cifar10 --lr 0.1 --gpu 1 --valuate --epochs 200 --deterministic --workers 1
--arch nin_xnornet --dataset cifar10 --lr 0.01 --valuate --epochs 200 --deterministic --workers 1 --gpu 0
--arch nin_gc_xnornet --dataset cifar10 --lr 0.1 --valuate --epochs 150 --deterministic --workers 1 --gpu 0
""".strip().splitlines()
pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.fixture
def few_pictures(monkeypatch):
    """CIFAR-10's place taken by 32 + 16 handwritten digits, in colour."""

    def load(data_dir):
        classes, *splits = datasets.load_digits(data_dir)
        few = (datasets.ArraySet(s.images[:n], s.labels[:n]) for s, n in zip(splits, (32, 16), strict=True))
        return classes, *few

    monkeypatch.setitem(DATASETS, "cifar10", dataclasses.replace(DATASETS["cifar10"], load=load))


@pytest.mark.parametrize("line", LINES)
def test_they_train(line, few_pictures, capsys):
    config = TrainConfig.create(**parse_flags(shlex.split(line)))
    assert (config.evaluate, config.deterministic, config.workers) == (None, True, 1)
    assert call(*shlex.split(line), "--epochs", 1, "--gpu", "cpu", "--log-path", "run") == 0
    assert len(epochs_of("run")) == 1
    assert capsys.readouterr().out.count("\nTest: ") == 1


@pytest.mark.parametrize("line", LINES)
def test_a_gpu_that_is_not_there_is_named_with_what_to_give_instead(line, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert call(*shlex.split(line)) == 2
    index = shlex.split(line)[shlex.split(line).index("--gpu") + 1]
    expected = f"trainer_exp.py: error: there is no GPU '{index}'; valid: --gpu cpu for the CPU\n"
    assert capsys.readouterr().err == expected


TINY = ("--arch", "tiny_xnornet", "--dataset", "digits", "--epochs", "1")


@pytest.mark.parametrize("flag", ["--pretrained", "--resume"])
def test_evaluate_alone_means_the_checkpoint_of_another_flag(flag, capsys):
    assert call(*TINY, "--log-path", "run") == 0
    capsys.readouterr()
    assert call("--evaluate", flag, "run") == 0
    out = capsys.readouterr().out
    assert out.count("Test: ") == 1
    assert "Train:" not in out


def test_valuate_alone_tests_a_run_that_goes_on(capsys):
    assert call(*TINY, "--lr-schedule", "step", "--log-path", "run") == 0
    capsys.readouterr()
    assert call("--valuate", "--resume", "run", "--epochs", "2") == 0
    assert "Train: [2/2]" in capsys.readouterr().out
