"""``float_layers="int8"``: what the file computes, what it costs, and when it is refused."""

import copy
import re
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from eight_bit_models import COLOUR, IMAGES, NETWORKS, conv_net, mlp, prepared, rounded, with_outlier
from onnx_runs import RUNTIMES
from torch import Tensor, nn

import models
import quantize


def with_library(path, *inputs: Tensor) -> list[np.ndarray]:
    session = quantize.ort_session(path, threads=1)
    return session.run(None, {value.name: x.numpy() for value, x in zip(session.get_inputs(), inputs, strict=True)})


def export(net: nn.Module, path, x: Tensor, **options) -> quantize.export.exporter.ExportReport:
    return quantize.export_onnx(net, path, x[:4], float_layers="int8", **{"calibration": x, "max_drop": 100, **options})


def operators(path) -> dict[str, int]:
    return dict(Counter(node.op_type for node in onnx.load(path).graph.node if node.domain == "xnorkit"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_with_8_bits(name, tmp_path):
    """As PyTorch's fake quantization of the float layers does, in every runtime and batch size."""
    net, x = prepared(name)
    report = export(net, tmp_path / "net.onnx", x)
    assert operators(tmp_path / "net.onnx") == NETWORKS[name][3]
    assert report.parity.difference <= 1e-5  # of the file before
    exact = net(x).detach().numpy()
    expected = rounded(net, x)(x).detach().numpy()
    largest = np.abs(exact).max()
    assert not np.array_equal(exact, expected)
    for run in (*RUNTIMES.values(), with_library):
        found = run(tmp_path / "net.onnx", x)[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * largest)
        np.testing.assert_allclose(run(tmp_path / "net.onnx", x[7:8])[0], found[7:8], rtol=0, atol=1e-5 * largest)
    apart = np.abs(expected.astype(np.float64) - exact).max() / largest
    assert report.int8.difference == pytest.approx(apart, rel=0.01)


@pytest.mark.parametrize("name", ["bits", "read twice"])
def test_files_with_bits_of_8_bit_layers_need_the_second_version(name, tmp_path):
    net, x = prepared(name)
    export(net, tmp_path / "net.onnx", x)
    versions = [
        {entry.name: entry.i for entry in node.attribute}.get("xnorkit_version")
        for node in onnx.load(tmp_path / "net.onnx").graph.node
        if node.domain == "xnorkit"
    ]
    assert versions == [2 if name == "bits" else None] * len(versions)


def test_no_float_weight_is_left(tmp_path):
    net, x = prepared("bits")
    export(net, tmp_path / "net.onnx", x)
    left = [tensor for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in left} == {onnx.TensorProto.UINT8}


def test_a_network_of_the_zoo(tmp_path):
    x = torch.randn(8, 3, 32, 32)
    net = quantize.prepare(models.create_model("resnet18_bireal"), "bireal", x)
    report = export(net, tmp_path / "net.onnx", x)
    assert report.int8.layers == ("conv1/Conv", "fc/Gemm")
    found = operators(tmp_path / "net.onnx")
    assert (found["Int8Conv"], found["Int8Linear"]) == (1, 1)
    a, b = (run(tmp_path / "net.onnx", x)[0] for run in (with_library, RUNTIMES["onnxruntime"]))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_images_of_any_size(tmp_path):
    net, x = prepared("bits")
    export(net, tmp_path / "net.onnx", x, dynamic_size=True)
    other = torch.randn(2, 3, 20, 17)
    a, b = (run(tmp_path / "net.onnx", other)[0] for run in (with_library, RUNTIMES["onnxruntime"]))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_the_accuracy_before_and_after(tmp_path):
    net, x, labels = with_outlier("bits")
    labels[:4] = (labels[:4] + 1) % 10  # four that are wrong before
    report = export(net, tmp_path / "net.onnx", x, labels=labels)
    found = torch.from_numpy(with_library(tmp_path / "net.onnx", x)[0]).argmax(1)
    assert report.int8.before == 90
    assert report.int8.after == pytest.approx(100 * (found == labels).double().mean().item())
    assert report.int8.after < 80
    assert (report.int8.images, report.int8.labelled) == (IMAGES, True)
    expected = f"2 float layers in 8 bits: top-1 90.00% before, {report.int8.after:.2f}% after on 40 images"
    assert expected in str(report)


def test_predictions_that_change_where_there_are_no_labels(tmp_path):
    net, x, before = with_outlier("bits")
    report = export(net, tmp_path / "net.onnx", x)
    found = torch.from_numpy(with_library(tmp_path / "net.onnx", x)[0]).argmax(1)
    assert report.int8.before == 100
    assert report.int8.drop == pytest.approx(100 * (found != before).double().mean().item())
    assert f"{report.int8.drop:.2f}% of the predictions change" in str(report)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("limit", [None, 5.0])
def test_what_costs_too_much_is_refused_and_nothing_written(labelled, limit, tmp_path):
    net, x, labels = with_outlier("bits")
    (tmp_path / "net.onnx").write_text("an older file")
    words = r"top-1 is 100\.00% before and \d+\.\d\d% after on" if labelled else r"[\d.]+% of the predictions change, "
    with pytest.raises(ValueError, match=f"8 bits .* are refused: {words}.* 40 images.*max_drop={limit or 0.1:g} "):
        export(net, tmp_path / "net.onnx", x, labels=labels if labelled else None, max_drop=limit)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "an older file"


def test_a_gain_is_no_drop(tmp_path):
    net, x, _ = with_outlier("bits")
    export(net, tmp_path / "net.onnx", x)
    labels = torch.from_numpy(with_library(tmp_path / "net.onnx", x)[0]).argmax(1)
    report = export(net, tmp_path / "net.onnx", x, labels=labels, max_drop=0)
    assert report.int8.after == 100 > report.int8.before


def test_a_network_without_float_layers(tmp_path):
    x = torch.randn(4, 3, 9, 9)
    net = quantize.prepare(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "xnor", x, keep_float=())
    with pytest.raises(ValueError, match="has no float layers that 8 bits could hold"):
        export(net, tmp_path / "net.onnx", x)
    assert not list(tmp_path.iterdir())


def test_weights_and_images_of_zeros(tmp_path):
    net, x = prepared("bits")
    nn.init.zeros_(net[0].weight)
    export(net, tmp_path / "net.onnx", torch.zeros_like(x))
    expected = net(torch.zeros_like(x)).detach().numpy()
    np.testing.assert_allclose(with_library(tmp_path / "net.onnx", x)[0], expected, rtol=0, atol=0.02)


X = torch.randn(4, 3, 12, 12)
WRONG = [
    ({"float_layers": "int4"}, ValueError, "unknown float_layers 'int4'"),
    ({"float_layers": "float"}, ValueError, "calibration is for float_layers='int8'"),
    (
        {"float_layers": "float", "calibration": None, "labels": torch.zeros(4)},
        ValueError,
        "labels is for float_layers",
    ),
    ({"float_layers": "float", "calibration": None, "max_drop": 1}, ValueError, "max_drop is for float_layers"),
    ({"format": "standard"}, ValueError, "is for format 'packed', not 'standard'"),
    ({"calibration": None}, ValueError, "needs calibration: a tensor of images"),
    ({"calibration": [1, 2]}, TypeError, "must be a tensor of images, not list"),
    ({"calibration": X[:0]}, ValueError, r"calibration is \(0, 3, 12, 12\).*\(N, 3, 12, 12\)"),
    ({"calibration": X[0]}, ValueError, r"calibration is \(3, 12, 12\)"),
    ({"calibration": X[:, :2]}, ValueError, r"calibration is \(4, 2, 12, 12\)"),
    ({"calibration": X.byte()}, TypeError, "must be floats, normalized.*; it is torch.uint8"),
    ({"calibration": X / 0}, ValueError, "values that are not finite"),
    ({"labels": [0, 1, 2, 3]}, TypeError, "labels must be a tensor of whole numbers.*got list"),
    ({"labels": torch.zeros(4)}, TypeError, "got torch.float32"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"labels is \(3,\) for 4 images"),
    ({"labels": torch.zeros(4, 10, dtype=torch.int64)}, ValueError, r"labels is \(4, 10\); the predictions are \(4,\)"),
    ({"max_drop": -1}, ValueError, "max_drop is -1; it must be 0 points or more"),
    ({"max_drop": float("nan")}, ValueError, "max_drop is nan"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_wrong_arguments(change, error, message, tmp_path):
    net, _ = prepared("bits")
    options = {"float_layers": "int8", "calibration": X, **change}
    with pytest.raises(error, match=message) as raised:
        quantize.export_onnx(net, tmp_path / "net.onnx", X, **options)
    assert not re.search(r"[.!] [A-Z]", str(raised.value))  # one sentence
    assert not list(tmp_path.iterdir())


def test_several_inputs_are_refused(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.conv(x + y)

    with pytest.raises(ValueError, match="for models that take one tensor"):
        quantize.export_onnx(Two(), tmp_path / "net.onnx", (X, X), float_layers="int8", calibration=X)


def test_the_model_is_left_as_it_was(tmp_path):
    net, x = prepared("bits")
    before = copy.deepcopy(net.state_dict())
    export(net.train(), tmp_path / "net.onnx", x)
    assert net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


FLOAT_NETWORKS = {
    "convolutions": (
        lambda: conv_net(nn.Conv2d(3, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU()), COLOUR,
        {"Int8ConvRelu": 2, "Int8Linear": 1},
    ),
    "mlp": (mlp, (3, 4, 4), {"Int8LinearRelu": 2, "Int8Linear": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOAT_NETWORKS)
def test_a_float_network(name, tmp_path):
    """Without signs, whose rounding the layers behind would see."""
    build, shape, expected = FLOAT_NETWORKS[name]
    net, x = build().eval(), torch.randn(IMAGES, *shape)
    export(net, tmp_path / "net.onnx", x)
    assert operators(tmp_path / "net.onnx") == expected
    a, b, c = (run(tmp_path / "net.onnx", x)[0] for run in (with_library, *RUNTIMES.values()))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    np.testing.assert_allclose(a, c, rtol=0, atol=1e-5)
    np.testing.assert_allclose(a, rounded(net, x)(x).detach().numpy(), rtol=0, atol=0.01 * np.abs(a).max())
