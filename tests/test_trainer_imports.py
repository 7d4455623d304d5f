"""--import: networks, schemes and teachers of one's own in the trainer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zoo_samples

ROOT = Path(__file__).resolve().parent.parent
TEACHERS = ROOT / ".." / "shared" / "data" / "cifar10" / "teachers"

OWN = """
from torch import nn
from models.registry import register_model


@register_model("pocket", (1, 8, 8))
def pocket(num_classes=10, in_chans=1, layout="binary"):
    return nn.Sequential(
        nn.Conv2d(in_chans, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.BatchNorm1d(576), nn.Linear(576, num_classes),
    )
"""


def trainer(*flags: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "trainer_exp.py"), *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with my_network.py and a run of two epochs of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_network.py").write_text(OWN)
    flags = ("--arch", "pocket_xnornet", "--dataset", "digits", "--epochs", "2", "--log-path", "run", "--export")
    done = trainer("--import", "my_network.py", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_network_of_ones_own_trains_and_ships(own):
    assert (own / "run" / "model.onnx").exists()
    saved = torch.load(own / "run" / "last.pt", weights_only=True)
    assert "my_network" not in str(saved["config"])  # reading a checkpoint runs no code
    log = [json.loads(line) for line in (own / "run" / "log.jsonl").read_text().splitlines()]
    assert next(entry["last_acc1"] for entry in log if entry["kind"] == "result") > 30


def test_evaluation_asks_for_the_file_again(own):
    with_file = trainer("--import", "my_network.py", "--evaluate", "run", cwd=own)
    assert with_file.returncode == 0, with_file.stderr
    without = trainer("--evaluate", "run", cwd=own)
    assert without.returncode == 2
    assert "pocket" in without.stderr
    assert "Traceback" not in without.stderr


@pytest.mark.parametrize("name", ["missing.py", "notes.txt", "."])
def test_what_is_no_python_file_is_refused(name, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    done = trainer("--import", name, "--dataset", "digits", cwd=tmp_path)
    assert done.returncode == 2
    assert f"--import {name!r} is no Python file" in done.stderr


@pytest.mark.skipif(not TEACHERS.is_dir(), reason="needs ../shared/data/cifar10/teachers")
@pytest.mark.parametrize(("depth", "share"), [(20, 0.85), (56, 0.85)])
def test_the_published_teachers_know_the_images_of_the_zoo(depth, share):
    """91.7 and 93.4% of CIFAR-10's test set; here of every twentieth image of it."""
    import tools.he_resnets as he

    images, labels = zoo_samples.read("cifar10")
    model = he.HeResNet(depth, 10).eval()
    saved = torch.load(TEACHERS / f"resnet{depth}.th", map_location="cpu", weights_only=False)["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in saved.items()})
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in he.CIFAR10)
    with torch.no_grad():
        right = model((images / 255 - mean) / std).argmax(1) == labels
    assert right.float().mean() > share
