"""tools/export_onnx.py: its exit codes, and what it writes."""

import json

import onnx
import pytest
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
