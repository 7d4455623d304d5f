"""trainer_exp.py as people call it: what it prints, what it leaves behind, and how it stops."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from picture_files import write_pictures
from tiny_runs import call, epochs_of, train

import quantize.export
import training
from training import TrainConfig
from training.data import DATASETS, datasets, load_data
from training.watch.runlog import read_log

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--arch", "tiny_xnornet", "--dataset", "digits")
pytestmark = [pytest.mark.core, pytest.mark.usefixtures("empty_directory")]


@pytest.fixture
def few_digits(monkeypatch):
    """The digits with 32 training and 16 test images, for networks that are slow."""

    def load(data_dir):
        classes, *splits = datasets.load_digits(data_dir)
        return classes, *(datasets.ArraySet(s.images[:n], s.labels[:n]) for s, n in zip(splits, (32, 16), strict=True))

    monkeypatch.setitem(DATASETS, "digits", dataclasses.replace(DATASETS["digits"], load=load))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of the tiny network."""
    return train(tmp_path_factory.mktemp("module") / "run", epochs=2, lr_schedule="step", milestones=(1,)).run_dir


def result_of(run_dir):
    return next(entry for entry in read_log(run_dir) if entry["kind"] == "result")


def test_the_main_job(few_digits, capsys):
    argv = ("--arch", "nin_gc_xnornet", "--dataset", "digits", "--epochs", "1", "--batch-size", "16", "--export")
    assert call(*argv, "--log-path", "run") == 0
    out, error = capsys.readouterr()
    assert out.splitlines()[:3] == [
        "==> Computational complexity:  24.71 MMac",
        "==> Number of parameters:    589.85 k",
        "==> Binary operations:  137.36 MMac",
    ]
    assert "digits (32 + 16 images) on cpu" in out
    assert re.findall(r"^(Train|Test):", out, re.MULTILINE) == ["Train", "Test"]
    assert f"\nbest_acc1: {result_of(Path('run'))['best_acc1']:.2f}\n" in out
    assert f"\ncheckpoint_path: {Path('run') / 'best.pt'}\n" in out
    assert not re.search(r"[\r\x1b]", out + error)  # plain lines where there is no terminal
    assert "Train 1" not in error
    names = {path.name for path in Path("run").iterdir()}
    assert {n for n in names if not n.startswith("events.")} == {"best.pt", "last.pt", "log.jsonl", "model.onnx"}
    assert len(names) == 5
    assert read_log(Path("run"))[-1] == {"kind": "export", "bytes": Path("run/model.onnx").stat().st_size}


def test_the_onnx_file_gives_the_same_answers_on_the_test_set(tmp_path):
    assert call(*TINY, "--epochs", "2", "--lr", "0.01", "--log-path", "run", "--export", "net.onnx") == 0
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    model, info = training.load_model("run")
    config = TrainConfig.create(arch="tiny", dataset="digits", batch_size=355)
    ((images, _),) = load_data(config, info.input_size, torch.device("cpu")).test
    (answers,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = model(images).detach().numpy()
    assert np.array_equal(answers.argmax(1), expected.argmax(1))
    assert len(set(answers.argmax(1))) == 10
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["arch"] == "tiny_xnornet"
    assert json.loads(metadata["classes"]) == info.classes
    assert json.loads(metadata["input_normalization"]) == {"mean": [0.3053], "std": [0.376]}
    (tmp_path / "net.onnx").unlink()
    assert call("--evaluate", "run") == 0  # asks for no file, though the run did
    assert not (tmp_path / "net.onnx").exists()


def test_runs_get_a_directory_of_their_own(few_digits, tmp_path):
    for _ in range(2):
        assert call("--arch", "tiny", "--dataset", "digits", "--epochs", "1") == 0
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all(name.startswith("tiny-digits-") for name in runs)


def test_a_checkpoint_is_evaluated_alone(run_dir, tmp_path, capsys):
    result = result_of(run_dir)
    for flag in ("--evaluate", "--valuate"):
        assert call(flag, run_dir) == 0
        out = capsys.readouterr().out
        assert f"best_acc1: {result['best_acc1']:.2f}\n" in out
        assert "Train:" not in out
    assert call("--evaluate", "--resume", run_dir / "last.pt", *TINY) == 0
    assert f"best_acc1: {result['last_acc1']:.2f}\n" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert call("--evaluate", run_dir, "--export", tmp_path / "net.onnx") == 0
    assert (tmp_path / "net.onnx").exists()
    assert call("--evaluate", run_dir, "--export", tmp_path / "int8.onnx", "--export-format", "int8") == 0
    assert "ConvInteger" in {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}


def test_evaluation_leaves_the_training_images_alone(tmp_path):
    write_pictures(tmp_path / "pictures", size=(8, 8))
    folder = ("--arch", "tiny_xnornet", "--dataset", "imagefolder", "--data-dir", "pictures")
    assert call(*folder, "--batch-size", "2", "--epochs", "1", "--log-path", "run") == 0
    for path in (tmp_path / "pictures" / "train").rglob("*.png"):
        path.write_bytes(b"not a picture")
    assert call("--evaluate", "run") == 0
    assert call(*folder, "--batch-size", "2", "--epochs", "1", "--log-path", "again") == 2


def test_a_scheme_of_the_users_own_ends_a_networks_name(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize.scheme, "_REGISTRY", dict(quantize.scheme._REGISTRY))

    @quantize.register_scheme("my_own")
    @dataclasses.dataclass(frozen=True)
    class MyOwn(quantize.schemes.XNOR):
        """As xnor."""

    argv = ("--dataset", "digits", "--epochs", "1", "--batch-size", "700")
    assert call("--arch", "tiny_my_own", *argv, "--log-path", "run") == 0
    model, info = training.load_model("run")
    assert (info.arch, info.scheme) == ("tiny_my_own", "my_own")
    assert {type(m.scheme) for m in model.modules() if isinstance(m, quantize.BinaryLayer)} == {MyOwn}
    assert call("--evaluate", "run") == 0
    assert call("--arch", "tiny_xnornet", *argv, "--teacher", "tiny_my_own:run", "--log-path", "student") == 0


def test_a_run_is_continued_in_its_directory_or_in_another(run_dir, tmp_path, capsys):
    shutil.copytree(run_dir, "run")
    assert call("--resume", "run", "--epochs", 3) == 0
    out = capsys.readouterr().out
    assert "continuing after epoch 2" in out
    assert "Train: [3/3]" in out
    assert call("--resume", run_dir / "last.pt", "--epochs", 3, "--log-path", "more") == 0
    assert [entry["epoch"] for entry in epochs_of("run")] == [1, 2, 3]
    (again,), (*_, third) = epochs_of("more"), epochs_of("run")
    assert (again["train"], again["test"]) == (third["train"], third["test"])
    assert len(epochs_of(run_dir)) == 2


def test_a_binary_run_starts_from_a_float_one(tmp_path):
    trained = train(tmp_path / "float", scheme="none", epochs=1).model.state_dict()
    no_step = ("--lr", "1e-30", "--weight-decay", "0")
    assert call(*TINY, "--pretrained", "float", *no_step, "--epochs", 1, "--log-path", "binary") == 0
    model, info = training.load_model("binary")
    assert info.scheme == "xnor"
    for name, weight in model.named_parameters():
        assert torch.equal(weight, trained[name]), name


@pytest.mark.parametrize("flag", ["--milestones", "--schedule"])
def test_the_learning_rate_falls_at_the_milestones(flag, few_digits, capsys):
    assert call(*TINY, "--lr", "0.02", flag, 1, 3, "--gamma", "0.5", "--epochs", 4, "--log-path", "run") == 0
    rates = re.findall(r"^Train: .* lr (\S+)", capsys.readouterr().out, re.MULTILINE)
    assert rates == ["0.02", "0.01", "0.01", "0.005"]


def test_help_is_the_launch_manual(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    assert "python trainer_exp.py --arch nin_gc_xnornet --dataset digits" in out
    assert "--milestones" in out


# Stops: a run that had begun.


def assert_stopped(capsys, *fragments):
    """One sentence with these parts."""
    error = capsys.readouterr().err
    assert re.fullmatch(r"trainer_exp\.py: error: [^\n]+\n", error), error
    for fragment in fragments:
        assert fragment in error


def test_a_loss_that_is_not_finite_is_one_sentence(capsys):
    argv = ("--arch", "tiny", "--dataset", "digits", "--optimizer", "sgd", "--lr", "1e38", "--epochs", "2")
    assert call(*argv, "--log-path", "run") == 1
    assert_stopped(capsys, "epoch 1", "the first layer with", "no epoch was finished", "try a lower --lr than 1e+38")


def test_an_export_that_disagrees_is_one_sentence(few_digits, monkeypatch, capsys):
    def disagree(*args, **kwargs):
        raise quantize.export.ExportMismatch("onnxruntime and PyTorch differ by 3")

    monkeypatch.setattr(quantize.export, "export_onnx", disagree)
    assert call(*TINY, "--epochs", "1", "--log-path", "run", "--export") == 1
    assert_stopped(capsys, "differ by 3")


def test_a_picture_that_turns_out_unreadable_is_one_sentence(tmp_path, capsys):
    write_pictures(tmp_path / "pictures", size=(12, 12))
    (tmp_path / "pictures" / "test" / "dog" / "2.png").write_bytes(b"not a picture")
    argv = ("--arch", "tiny", "--dataset", "imagefolder", "--data-dir", "pictures", "--augment", "resized_crop")
    assert call(*argv, "--workers", "0", "--batch-size", "2", "--epochs", "1", "--log-path", "run") == 1
    assert_stopped(capsys, "2.png' is not a readable picture; remove or replace it")


def start(*argv, cwd):
    command = [sys.executable, ROOT / "trainer_exp.py", "--gpu", "", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=cwd, env=environment, preexec_fn=hear_ctrl_c, **pipes)


def hear_ctrl_c():
    """In a background job of a shell, SIGINT is ignored, and in all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_the_last_checkpoint_whole(tmp_path):
    argv = ("--arch", "lenet5_xnornet", "--dataset", "digits", "--epochs", "1000", "--milestones", "900")
    process = start(*argv, "--log-path", "run", cwd=tmp_path)
    while not (tmp_path / "run" / "last.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate()
    assert process.returncode == 130
    stop = r"trainer_exp\.py: error: interrupted after \d+ of 1000 epochs; continue with --resume run.last\.pt\n"
    assert re.fullmatch(stop, error), error
    assert "Train: [   1/1000]" in out
    assert not re.search(r"[\r\x1b]", out)
    assert not list((tmp_path / "run").glob("*.tmp"))
    epoch = training.load_model(tmp_path / "run" / "last.pt")[1].epoch
    assert epoch >= 1
    assert call("--resume", tmp_path / "run", "--epochs", epoch + 1) == 0
    assert [entry["epoch"] for entry in epochs_of(tmp_path / "run")] == list(range(1, epoch + 2))


def test_the_guides_way_to_train_with_a_scheme_of_ones_own(tmp_path):
    guide = (ROOT / "READMEs" / "adding.md").read_text()
    scheme = re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1]
    (tmp_path / "my_schemes.py").write_text(scheme)
    command = shlex.split(re.search(r"^python -c .*scaledsign.*$", guide, re.MULTILINE)[0])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    short = ["--dataset", "digits", "--epochs", "1", "--log-path", "run", "--gpu", ""]
    run = subprocess.run([sys.executable, *command[1:], *short], cwd=tmp_path, env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert read_log(tmp_path / "run")[0]["scheme"] == "scaledsign"
    assert call("--evaluate", "run") == 2  # not imported here


def test_a_bad_flag_in_a_process_of_its_own(tmp_path):
    process = start("--arch", "nope", "--dataset", "digits", cwd=tmp_path)
    out, error = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert error.count("\n") == 1
    assert "unknown network 'nope'" in error
    assert list(tmp_path.iterdir()) == []
