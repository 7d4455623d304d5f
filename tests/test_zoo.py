"""Trained networks by name: how they get into the zoo, what comes out of it, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs
import torch
from PIL import Image

import models
import quantize
import trainer_exp
from models import zoo
from tools import evaluate, ship
from training.checkpoint import LAST
from training.evaluation import open_checkpoint

NAME, DATASET = "tiny_xnornet", "digits"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    tiny_runs.train(folder, epochs=3, batch_size=16, lr=0.005)
    return folder


@pytest.fixture(scope="module")
def shipped(run_dir, tmp_path_factory):
    """The folder of a zoo that holds one network."""
    folder = tmp_path_factory.mktemp("models") / "weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "WEIGHTS", folder)
        patch.setattr(ship, "keep", lambda *args: None)
        assert ship.main([str(run_dir)]) == 0
    return folder


@pytest.fixture
def weights(shipped, tmp_path, monkeypatch):
    """A zoo of one network, which may be damaged."""
    folder = shutil.copytree(shipped, tmp_path / "weights")
    monkeypatch.setattr(zoo, "WEIGHTS", folder)
    return folder


@pytest.fixture
def trained(run_dir):
    return open_checkpoint(run_dir / LAST, {}, test_only=True)


def outputs(model, data):
    with torch.no_grad():
        return torch.cat([model(images) for images, _ in data.test])


def test_it_computes_what_was_trained(weights, trained):
    expected = outputs(trained.model, trained.data)
    assert models.list_pretrained() == [(NAME, DATASET)]
    network = models.create_model(NAME, pretrained=DATASET)
    assert sum(isinstance(m, quantize.BinaryLayer) for m in network.modules()) == 2
    torch.testing.assert_close(outputs(network, trained.data), expected, rtol=1e-4, atol=1e-4)
    packed = models.create_model(NAME, pretrained=DATASET, packed=True)
    assert any(isinstance(m, quantize.PackedLayer) for m in packed.modules())
    torch.testing.assert_close(outputs(packed, trained.data), expected, rtol=1e-4, atol=1e-4)
    session = quantize.ort_session(models.get_pretrained(NAME, DATASET).onnx_path)
    images, _ = next(iter(trained.data.test))
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, expected[: len(images)], rtol=1e-3, atol=1e-3)


def test_what_is_known_of_it(weights, trained, run_dir):
    entry = models.get_pretrained(NAME, DATASET)
    assert entry.accuracy == pytest.approx(trained.info.acc1, abs=0.05)
    assert entry.float_accuracy is None
    assert (entry.classes, entry.input_size, entry.seed, entry.epochs) == ([*"0123456789"], (1, 8, 8), 0, 3)
    assert entry.log == run_dir.name
    assert str(run_dir) not in (weights / zoo.REGISTRY).read_text()
    assert sum(file.stat().st_size for file in weights.iterdir()) < 60_000


def test_pictures_become_inputs(weights):
    entry = models.get_pretrained(NAME, DATASET)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    images = entry.images(Image.fromarray(pixels), Image.new("RGB", (30, 20), "white"))
    assert images.shape == (2, 1, 8, 8)
    expected = (pixels / 255 - entry.mean[0]) / entry.std[0]
    np.testing.assert_allclose(images[0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(images[1], (1 - entry.mean[0]) / entry.std[0], rtol=1e-5)


def test_it_trains_on(weights, tmp_path):
    flags = tiny_runs.tiny_flags(tmp_path / "run", epochs=1, lr=1e-5, pretrained=DATASET)
    session = tiny_runs.training.setup(tiny_runs.training.config_from_flags(flags))
    best = tiny_runs.training.fit(session)
    assert best > models.get_pretrained(NAME, DATASET).accuracy - 5  # from scratch: about 10


def test_the_tool_evaluates_it(weights, capsys):
    assert evaluate.main([NAME, "--pretrained", DATASET, "--threads", "1"]) == 0
    assert f"{models.get_pretrained(NAME, DATASET).accuracy:.2f}%" in capsys.readouterr().out


def test_a_second_run_takes_its_place(weights, run_dir, monkeypatch):
    monkeypatch.setattr(ship, "keep", lambda *args: None)
    assert ship.main([str(run_dir), "--data", "scikit-learn's digits", "--float", str(run_dir)]) == 0
    (row,) = json.loads((weights / zoo.REGISTRY).read_text())
    assert row["data"] == "scikit-learn's digits"
    assert row["float_accuracy"] == pytest.approx(row["accuracy"], abs=0.05)


def damage(file):
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


def test_damaged_files_are_refused(weights):
    entry = models.get_pretrained(NAME, DATASET)
    damage(weights / entry.state["file"])
    with pytest.raises(ValueError, match="is damaged: its sha256 is"):
        models.create_model(NAME, pretrained=DATASET)
    damage(weights / entry.onnx["file"])
    with pytest.raises(ValueError, match="is damaged: its sha256 is"):
        entry.onnx_path  # noqa: B018
    (weights / entry.onnx["file"]).unlink()
    with pytest.raises(FileNotFoundError, match="install xnorkit again"):
        entry.onnx_path  # noqa: B018


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pretrained": "mnist"}, "no trained weights of 'tiny_xnornet' for 'mnist': there are those for 'digits'"),
        ({"pretrained": True}, "does not say which weights"),
        ({"packed": True}, "name its dataset"),
        ({"pretrained": DATASET, "num_classes": 7}, "num_classes is 7, and 'tiny_xnornet' was trained"),
        ({"pretrained": DATASET, "in_chans": 3}, "in_chans is 3"),
        ({"pretrained": DATASET, "depth": 3}, "has no option 'depth'"),
    ],
)
def test_what_there_is_not(weights, options, reason):
    with pytest.raises(ValueError, match=reason):
        models.create_model(NAME, **options)


def test_a_network_that_is_not_there(weights):
    with pytest.raises(ValueError, match="no trained weights of 'vgg11_xnornet' for 'digits': valid: tiny_xnornet for"):
        models.create_model("vgg11_xnornet", pretrained=DATASET)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--pretrained"], "does not say which weights of 'tiny_xnornet'; write --pretrained digits"),
        (["--evaluate", "--pretrained", DATASET], "python tools/evaluate.py tiny_xnornet --pretrained digits tests"),
    ],
)
def test_the_trainer_says_what_to_write(weights, argv, reason, capsys, tmp_path):
    flags = ["--arch", NAME, "--dataset", DATASET, "--gpu", "cpu", "--log-path", str(tmp_path / "run")]
    assert trainer_exp.main([*flags, *argv]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"arch": "tiny"}, "is a float network"),
        ({"scheme": "bnn"}, "with --scheme bnn, which its name does not say"),
    ],
)
def test_what_cannot_be_shipped(weights, tmp_path, capsys, flags, reason):
    before = (weights / zoo.REGISTRY).read_bytes()
    tiny_runs.train(tmp_path / "run", epochs=1, **flags)
    assert ship.main([str(tmp_path / "run")]) == 2
    assert reason in capsys.readouterr().err
    assert (weights / zoo.REGISTRY).read_bytes() == before


def test_a_run_that_is_not_finished(weights, tmp_path, capsys):
    assert ship.main([str(tmp_path)]) == 2
    assert "is not finished" in capsys.readouterr().err
