"""export_onnx: what stands in the file."""

import json
import os
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_runs import export_standard as export_onnx
from torch import nn

import quantize

pytestmark = pytest.mark.core


@pytest.fixture
def net() -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        quantize.BinaryConv2d(8, 16, 3, padding=1, threshold=True, scheme="xnor:center=false"),
        nn.BatchNorm2d(16),
        quantize.BinaryConv2d(16, 16, 1, bias=False, scheme="ternary"),
    )
    return nn.Sequential(features, nn.Flatten(), nn.Linear(16 * 36, 10))


def exported(net: nn.Module, tmp_path, x: torch.Tensor, **options) -> onnx.ModelProto:
    export_onnx(net, tmp_path / "net.onnx", x, **options)
    return onnx.load(tmp_path / "net.onnx")


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_a_person_can_read_the_graph(net, tmp_path):
    model = exported(net, tmp_path, torch.randn(1, 3, 8, 8))
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("Conv", "0.0/Conv"),
        ("BatchNormalization", "0.1/BatchNormalization"),
        ("Relu", "0.2/Relu"),
        ("Sub", "0.3/threshold"),
        ("Cast", "0.3/weight"),
        ("GreaterOrEqual", "0.3/GreaterOrEqual"),
        ("Where", "0.3/sign"),
        ("Conv", "0.3/Conv"),
        ("Mul", "0.3/scale"),
        ("Add", "0.3/bias"),
        ("BatchNormalization", "0.4/BatchNormalization"),
        ("Cast", "0.5/weight"),
        ("Conv", "0.5/Conv"),
        ("Mul", "0.5/scale"),
        ("Reshape", "1/Reshape"),
        ("Gemm", "2/Gemm"),
    ]
    sign = next(node for node in model.graph.node if node.name == "0.3/sign")
    assert [float(constants(model)[name]) for name in sign.input[1:]] == [1, -1]
    assert sorted(name for name in constants(model) if name.startswith("0.")) == [
        "0.0.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var", "0.1.weight",
        "0.3.bias", "0.3.threshold", "0.3.weight_bits", "0.3.weight_scale",
        "0.4.bias", "0.4.running_mean", "0.4.running_var", "0.4.weight",
        "0.5.weight_bits", "0.5.weight_scale",
    ]  # fmt: skip


def test_weights_are_stored_in_8_bits(net, tmp_path):
    model = exported(net, tmp_path, torch.randn(2, 3, 8, 8))
    stored = constants(model)
    latent = net[0][3].weight.detach()
    np.testing.assert_array_equal(stored["0.3.weight_bits"], np.where(latent >= 0, 1, -1))
    assert stored["0.3.weight_bits"].dtype == np.int8
    np.testing.assert_allclose(stored["0.3.weight_scale"].ravel(), latent.abs().mean((1, 2, 3)), rtol=1e-6)
    assert set(np.unique(stored["0.5.weight_bits"])) == {-1, 0, 1}


def test_standard_operators_and_a_dynamic_batch(net, tmp_path):
    model = exported(net, tmp_path, torch.randn(1, 3, 8, 8))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
    assert not model.functions
    for value, sizes in ((model.graph.input[0], [3, 8, 8]), (model.graph.output[0], [10])):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param == "batch"
        assert [dim.dim_value for dim in rest] == sizes
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "output")


def test_a_zero_scheme_scale_and_a_pending_threshold(tmp_path):
    layer = quantize.BinaryConv2d(4, 4, 3, scheme="bnn")
    layer.start_threshold(torch.zeros(4), pending=True)
    model = exported(layer, tmp_path, torch.randn(1, 4, 5, 5))
    assert Counter(node.op_type for node in model.graph.node)["Sub"] == 0
    np.testing.assert_array_equal(constants(model)["weight_scale"].ravel(), np.ones(4))


def test_input_scale_is_two_small_convolutions_and_a_mul(tmp_path):
    layer = quantize.BinaryConv2d(4, 6, 3, groups=2, scheme="xnor:input_scale=true")
    operators = Counter(node.op_type for node in exported(layer, tmp_path, torch.randn(1, 4, 5, 5)).graph.node)
    assert operators["Conv"] == 2
    assert operators["ReduceMean"] == 1
    assert operators["Where"] == 1  # sign(x) is computed once, for |x| and for the convolution


def test_shared_layers_and_weights_are_stored_once(tmp_path):
    a, b, c = (quantize.BinaryLinear(16, 16) for _ in range(3))
    b.weight = a.weight
    model = exported(nn.Sequential(a, b, a, c), tmp_path, torch.randn(2, 16))
    stored = [name for name in constants(model) if name.endswith("weight_bits")]
    assert sorted(stored) == ["0.weight_bits", "3.weight_bits"]
    names = [node.name for node in model.graph.node]
    assert {"0/sign", "1/sign", "2/sign", "3/sign", "0/scale", "1/scale", "2/scale"} <= set(names)
    assert len(set(names)) == len(names)


def test_metadata(net, tmp_path):
    given = {"arch": "mine", "classes": ["cat", "dog"], "input_normalization": {"mean": (0.5,), "std": (0.25,)}}
    model = exported(net, tmp_path, torch.randn(1, 3, 8, 8), metadata=given)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["scheme"] == "ternary; xnor:center=False"
    assert found["xnorkit_version"] == quantize.__version__
    assert found["arch"] == "mine"
    assert json.loads(found["classes"]) == ["cat", "dog"]
    assert json.loads(found["input_normalization"]) == {"mean": [0.5], "std": [0.25]}
    assert (model.producer_name, model.producer_version) == ("xnorkit", quantize.__version__)


def test_nothing_of_this_machine_is_in_the_file(net, tmp_path):
    exported(net, tmp_path, torch.randn(1, 3, 8, 8))
    contents = (tmp_path / "net.onnx").read_bytes()
    for trace in (os.path.dirname(quantize.__file__), os.path.dirname(torch.__file__), "pkg.torch", "stack_trace"):
        assert trace.encode() not in contents


def test_nothing_is_printed(net, tmp_path, capfd, recwarn, caplog):
    report = export_onnx(net, tmp_path / "net.onnx", torch.randn(1, 3, 8, 8))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    assert report.size == (tmp_path / "net.onnx").stat().st_size
    assert report.opset == 21
    assert str(report).startswith(f"{tmp_path / 'net.onnx'}: {report.size:,} bytes, opset 21, largest difference")
    assert "\n" not in str(report)
