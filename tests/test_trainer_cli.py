"""trainer_exp.py as people call it: what it prints, what it leaves behind, and how it refuses."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import train
from torch import nn

import models
import trainer_exp
import training
from training.data import DATASETS, datasets

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def few_digits(monkeypatch):
    """The digits with 32 training and 16 test images, for networks that are slow."""

    def load(data_dir):
        classes, *splits = datasets.load_digits(data_dir)
        return classes, *(datasets.ArraySet(s.images[:n], s.labels[:n]) for s, n in zip(splits, (32, 16), strict=True))

    monkeypatch.setitem(DATASETS, "digits", dataclasses.replace(DATASETS["digits"], load=load))


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of the tiny network."""
    return train(tmp_path_factory.mktemp("module") / "run", epochs=2, lr_schedule="step", milestones=(1,)).run_dir


def call(*argv):
    try:
        return trainer_exp.main([*map(str, argv), "--gpu", ""])
    except SystemExit as stop:
        return stop.code


def test_the_main_job(few_digits, tmp_path, capsys):
    argv = ("--arch", "nin_gc_xnornet", "--dataset", "digits", "--epochs", "1", "--batch-size", "16", "--export")
    assert call(*argv, "--log-path", "run") == 0
    out = capsys.readouterr().out.splitlines()
    assert "==> Computational complexity:  24.71 MMac" in out
    assert "==> Number of parameters:    589.85 k" in out
    assert "==> Binary operations:  137.36 MMac" in out
    assert [line.partition(":")[0] for line in out if line.startswith(("Train", "Test"))] == ["Train", "Test"]
    assert f"checkpoint_path: {Path('run') / 'best.pt'}" in out
    names = {path.name for path in Path("run").iterdir()}
    assert {n for n in names if not n.startswith("events.")} == {"best.pt", "last.pt", "log.jsonl", "model.onnx"}
    assert len(names) == 5


def test_the_onnx_file_answers_as_the_best_checkpoint(tmp_path):
    import onnxruntime

    argv = ("--arch", "tiny_xnornet", "--dataset", "digits", "--epochs", "2", "--log-path", "run")
    assert call(*argv, "--export", tmp_path / "net.onnx") == 0
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    model, info = training.load_model("run")
    x = torch.randn(5, 1, 8, 8)
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(answer, model(x).detach(), atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["arch"] == "tiny_xnornet"
    assert json.loads(metadata["classes"]) == info.classes
    assert json.loads(metadata["input_normalization"]) == {"mean": [0.3053], "std": [0.376]}


def test_runs_get_a_directory_of_their_own(tmp_path):
    for _ in range(2):
        assert call("--arch", "tiny", "--dataset", "digits", "--epochs", "1") == 0
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all(name.startswith("tiny-digits-") for name in runs)


def test_a_checkpoint_is_evaluated_alone(run_dir, tmp_path, capsys):
    result = json.loads((run_dir / "log.jsonl").read_text().splitlines()[-1])
    for flag in ("--evaluate", "--valuate"):
        assert call(flag, run_dir) == 0
        out = capsys.readouterr().out
        assert f"best_acc1: {result['best_acc1']:.2f}" in out
        assert "Train:" not in out
    assert call("--evaluate", "--resume", run_dir / "last.pt", "--arch", "tiny_xnornet", "--dataset", "digits") == 0
    assert f"best_acc1: {result['last_acc1']:.2f}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert call("--evaluate", run_dir, "--export", tmp_path / "net.onnx") == 0
    assert (tmp_path / "net.onnx").exists()


def test_a_run_is_continued(run_dir, tmp_path, capsys):
    assert call("--resume", run_dir / "last.pt", "--epochs", 3, "--log-path", "more") == 0
    out = capsys.readouterr().out
    assert "continuing after epoch 2" in out
    assert "Train: [3/3]" in out


# Refusals: one sentence, exit code 2, nothing written.


@models.register_model("nothing_to_binarize", input_size=(1, 8, 8))
def nothing_to_binarize(num_classes=10, in_chans=1, layout="float"):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def write_pictures(root, train=("cat", "dog"), test=("cat", "dog")):
    from PIL import Image

    for split, classes in (("train", train), ("test", test)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(root / split / name / "0.png")


TINY = ("--arch", "tiny_xnornet", "--dataset", "digits")
FOLDER = ("--arch", "tiny", "--dataset", "imagefolder")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--arch", "nin", "--dataset", "digits", "--scheme", "xnr"], "unknown scheme 'xnr': did you mean 'xnor'"),
        (["--arch", "nin_gv", "--dataset", "digits"], "unknown network 'nin_gv': did you mean 'nin_gc'"),
        (["--arch", "timm/resnet81", "--dataset", "digits"], "unknown network 'timm/resnet81': did you mean"),
        (["--arch", "nin", "--dataset", "digit"], "unknown dataset 'digit': did you mean 'digits'"),
        ([*TINY, "--override", "55=bwn"], "no layer matches '55'"),
        ([*TINY, "--override", "55"], "'55' is not PATTERN=SCHEME"),
        ([*TINY, "--keep-float", "convs"], "no layer matches 'convs'"),
        (["--arch", "nothing_to_binarize_xnornet", "--dataset", "digits"], "binar"),
        (["--arch", "lenet5", "--dataset", "digits", "--img-size", "32"], "'lenet5' does not take images of shape (1, 32,"),
        ([*TINY, "--resume", "nowhere.pt"], "there is no checkpoint 'nowhere.pt'"),
        ([*TINY, "--pretrained", "nowhere.pt"], "there is no checkpoint 'nowhere.pt'"),
        (["--evaluate"], "--evaluate names no checkpoint"),
        ([*TINY, "--export", "nowhere/net.onnx"], "there is no directory"),
        ([*TINY, "--epochs", "some"], "argument --epochs: invalid int value: 'some'; see --help"),
        ([*TINY, "--lr", "-1"], "--lr is -1.0; it must be positive"),
        ([*TINY, "--normalize", "cifar"], "unknown normalization 'cifar': did you mean 'cifar10'"),
        ([*TINY, "--normalize", "mnist", "--mean", "0"], "exclude each other"),
        ([*FOLDER, "--data-dir", "nowhere"], "there is no data directory 'nowhere'; name one with --data-dir"),
        ([*FOLDER, "--data-dir", "empty"], "must hold train/<class>/ and val/ or test/<class>/; it has nothing"),
        ([*FOLDER, "--data-dir", "differ"], "only in the first: dog; only in the second: frog"),
    ],
    ids=lambda value: None if isinstance(value, list) else value[:40],
)
def test_bad_input_is_one_sentence(argv, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "differ", test=("cat", "frog"))
    before = sorted(tmp_path.rglob("*"))
    assert call(*argv, *(() if "--resume" in argv else ("--log-path", "run"))) == 2
    assert_one_sentence(capsys, message)
    assert sorted(tmp_path.rglob("*")) == before


def assert_one_sentence(capsys, message):
    error = capsys.readouterr().err
    assert error.startswith("trainer_exp.py: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_a_checkpoint_of_another_architecture(run_dir, capsys):
    other = ("--arch", "lenet5_xnornet", "--dataset", "digits")
    for flag, message in (
        ("--resume", "--arch lenet5_xnornet contradicts"),
        ("--evaluate", "--arch lenet5_xnornet contradicts"),
        ("--pretrained", "holds another architecture"),
    ):
        assert call(*other, flag, run_dir) == 2
        assert_one_sentence(capsys, message)


def test_a_truncated_checkpoint(run_dir, tmp_path, capsys):
    whole = (run_dir / "last.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for flag in ("--resume", "--evaluate", "--pretrained"):
        assert call(*TINY, flag, "cut.pt") == 2
        assert_one_sentence(capsys, "'cut.pt' is not a complete checkpoint")


def test_a_directory_that_holds_a_run_is_not_overwritten(run_dir, capsys):
    before = (run_dir / "log.jsonl").read_bytes()
    assert call(*TINY, "--log-path", run_dir) == 2
    assert_one_sentence(capsys, "holds a run already; continue it with --resume")
    assert (run_dir / "log.jsonl").read_bytes() == before


def test_classes_of_another_set(run_dir, tmp_path, capsys):
    write_pictures(tmp_path / "pictures")
    assert call("--evaluate", run_dir, "--dataset", "imagefolder", "--data-dir", tmp_path / "pictures") == 2
    assert_one_sentence(capsys, "are not the 2 of the data")


# Stops: a run that had begun.


def test_a_loss_that_is_not_finite_is_one_sentence(tmp_path, capsys):
    argv = ("--arch", "tiny", "--dataset", "digits", "--optimizer", "sgd", "--lr", "1e38", "--epochs", "2")
    assert call(*argv, "--log-path", "run") == 1
    error = capsys.readouterr().err
    assert "epoch 1" in error
    assert "the first layer with" in error
    assert "no epoch was finished" in error
    assert "Traceback" not in error


def test_an_export_that_disagrees_is_one_sentence(monkeypatch, capsys):
    import quantize.export

    def disagree(*args, **kwargs):
        raise quantize.export.ExportMismatch("onnxruntime and PyTorch differ by 3")

    monkeypatch.setattr(quantize.export, "export_onnx", disagree)
    assert call(*TINY, "--epochs", "1", "--log-path", "run", "--export") == 1
    assert_one_sentence(capsys, "differ by 3")


def start(*argv, cwd):
    command = [sys.executable, ROOT / "trainer_exp.py", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=cwd, env=environment, **pipes)


def test_ctrl_c_leaves_the_last_checkpoint_whole(tmp_path):
    argv = ("--arch", "lenet5_xnornet", "--dataset", "digits", "--epochs", "1000", "--log-path", "run", "--gpu", "")
    process = start(*argv, cwd=tmp_path)
    while not (tmp_path / "run" / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert error.startswith("trainer_exp.py: error: interrupted after ")
    assert f"continue with --resume {Path('run') / 'last.pt'}" in error
    assert "Train: [   1/1000]" in out
    assert training.load_model(tmp_path / "run" / "last.pt")[1].epoch >= 1
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_bad_flag_in_a_process_of_its_own(tmp_path):
    process = start("--arch", "nope", "--dataset", "digits", cwd=tmp_path)
    out, error = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert error.count("\n") == 1
    assert "unknown network 'nope'" in error
    assert list(tmp_path.iterdir()) == []


def test_help_is_the_launch_manual(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    assert "python trainer_exp.py --arch nin_gc_xnornet --dataset digits" in out
    assert "--milestones" in out
