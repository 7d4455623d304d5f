"""tools/export_onnx.py: its exit codes, and what it writes."""

import json

import onnx
import pytest
import torch
from picture_files import write_pictures
from torch import nn

import quantize
from tools import export_onnx
from training import ModelInfo
from training.data import Normalization

pytestmark = pytest.mark.core


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """A checkpoint, as far as the tool can see."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), quantize.BinaryConv2d(4, 2, 6), nn.Flatten()).eval()
    info = ModelInfo(
        path=tmp_path / "best.pt", arch="mine", scheme="xnor", classes=["cat", "dog"], input_size=(3, 8, 8),
        normalization=Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), epoch=3, acc1=81.5,
        config={"dataset": "pets"},
    )  # fmt: skip
    monkeypatch.setattr(export_onnx, "load_model", lambda path: (model, info))
    return model


def test_the_file_lies_beside_the_checkpoint_and_says_what_it_is(trained, tmp_path, capsys):
    assert export_onnx.main([str(tmp_path)]) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert (found["arch"], found["scheme"], found["dataset"]) == ("mine", "xnor", "pets")
    assert json.loads(found["classes"]) == ["cat", "dog"]
    assert json.loads(found["input_normalization"]) == {"mean": [0.5] * 3, "std": [0.25] * 3}


def test_no_check(trained, tmp_path, capsys):
    assert export_onnx.main([str(tmp_path), str(tmp_path / "net.onnx"), "--no-check"]) == 0
    assert "not compared" in capsys.readouterr().out


def test_any_height_and_width(trained, tmp_path):
    assert export_onnx.main([str(tmp_path), "--dynamic-size"]) == 0
    (images,) = onnx.load(tmp_path / "model.onnx").graph.input
    assert [dim.dim_param for dim in images.type.tensor_type.shape.dim] == ["batch", "", "height", "width"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.pt", "no/net.onnx"], "no directory 'no'"),
        (["net.pt", "--format", "packd"], "unknown ONNX format 'packd'"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(trained, arguments, message, capsys):
    assert export_onnx.main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_missing_checkpoint(tmp_path, capsys):
    assert export_onnx.main([str(tmp_path / "none.pt")]) == 2
    assert "none.pt" in capsys.readouterr().err


def test_a_mismatch_is_exit_code_1(trained, monkeypatch, tmp_path, capsys):
    def disagree(*_, **__):
        raise quantize.ExportMismatch("they disagree")

    monkeypatch.setattr(export_onnx.quantize, "export_onnx", disagree, raising=False)
    assert export_onnx.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == "export_onnx: they disagree\n"


INT8 = ["--float-layers", "int8"]


@pytest.fixture
def given(trained, monkeypatch):
    """What quantize.export_onnx was told."""
    found = {}
    monkeypatch.setattr(export_onnx.quantize, "export_onnx", lambda *_, **options: found.update(options), raising=False)
    return found


def test_float_layers_are_calibrated_on_a_folder_of_pictures(trained, tmp_path, capsys):
    pictures = write_pictures(tmp_path / "pets", size=(8, 8))
    assert export_onnx.main([str(tmp_path), *INT8, "--calibrate", str(pictures), "--max-drop", "100"]) == 0
    assert "1 float layer in 8 bits: top-1 " in capsys.readouterr().out
    assert {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node} >= {"Int8ConvToBits"}


def test_the_images_are_those_of_training_with_their_labels(given, tmp_path):
    pictures = write_pictures(tmp_path / "pets", count=4, size=(8, 8))
    assert export_onnx.main([str(tmp_path), *INT8, "--calibrate", str(pictures)]) == 0
    assert (given["float_layers"], given["max_drop"]) == ("int8", None)
    assert given["calibration"].shape == (8, 3, 8, 8)
    assert sorted(given["labels"].tolist()) == [0] * 4 + [1] * 4
    read = (given["calibration"] * 0.25 + 0.5) * 255  # the checkpoint's own normalization
    assert torch.allclose(read, read.round(), atol=1e-3)
    assert 0 <= read.min() < read.max() <= 255.001


def test_the_set_of_training_is_the_default(given, monkeypatch, tmp_path, capsys):
    assert export_onnx.main([str(tmp_path), *INT8]) == 2
    assert "'pets'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calibrate", "mnist"], "--calibrate is for --float-layers int8"),
        (["--max-drop", "1"], "--max-drop is for --float-layers int8"),
        (["--float-layers", "int4"], "unknown float_layers 'int4'"),
        ([*INT8, "--calibrate", "no such set"], "'no such set'"),
    ],
)
def test_wrong_flags_of_float_layers(trained, arguments, message, tmp_path, capsys):
    assert export_onnx.main([str(tmp_path), *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_what_costs_too_much_is_exit_code_2(trained, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ValueError("8 bits in the float layers are refused")

    pictures = write_pictures(tmp_path / "pets", size=(8, 8))
    monkeypatch.setattr(export_onnx.quantize, "export_onnx", refuse, raising=False)
    assert export_onnx.main([str(tmp_path), *INT8, "--calibrate", str(pictures)]) == 2
    assert "are refused" in capsys.readouterr().err
