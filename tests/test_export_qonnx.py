"""Format "qonnx": what stands in the file, and what it computes in the executor of the package qonnx."""

import importlib.util
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
import torch
from converted_models import converted
from onnx import numpy_helper
from onnx_runs import qonnx_outputs
from torch import nn

import models
import quantize
from quantize import scheme
from quantize.export import formats, onnx_session

pytestmark = pytest.mark.core

needs_qonnx = pytest.mark.skipif(importlib.util.find_spec("qonnx") is None, reason="the package qonnx is not installed")


def export(net: nn.Module, path, x: torch.Tensor) -> onnx.ModelProto:
    quantize.export_onnx(net, path, x, format="qonnx")
    return onnx.load(path)


def test_onnxruntime_says_whose_file_it_is(tmp_path):
    export(nn.Sequential(quantize.BinaryLinear(4, 3)), tmp_path / "net.onnx", torch.randn(2, 4))
    with pytest.raises(ValueError, match="net.onnx': it is a QONNX file, .*export format 'packed'"):
        quantize.ort_session(tmp_path / "net.onnx")


def test_a_person_can_read_the_graph(tmp_path):
    net = nn.Sequential(
        quantize.BinaryConv2d(3, 4, 3, threshold=True),
        quantize.BinaryConv2d(4, 2, 3, bias=False, scheme="ternary"),
        nn.Flatten(),
        quantize.BinaryLinear(8, 5),
    )
    model = export(net, tmp_path / "net.onnx", torch.randn(2, 3, 6, 6))
    assert [(node.op_type, node.name) for node in model.graph.node] == [
        ("Sub", "0/threshold"),
        ("BipolarQuant", "0/weight"),
        ("BipolarQuant", "0/BipolarQuant"),
        ("Conv", "0/Conv"),
        ("Mul", "0/scale"),
        ("Add", "0/bias"),
        ("Quant", "1/weight"),
        ("Conv", "1/Conv"),
        ("Mul", "1/scale"),
        ("Reshape", "2/Reshape"),
        ("BipolarQuant", "3/weight"),
        ("BipolarQuant", "3/BipolarQuant"),
        ("MatMul", "3/MatMul"),
        ("Mul", "3/scale"),
        ("Add", "3/bias"),
    ]
    domains = {node.domain for node in model.graph.node if "Quant" in node.op_type}
    assert domains == {"qonnx.custom_op.general"} < {opset.domain for opset in model.opset_import}
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert {"0.weight_bits", "1.weight_bits", "3.weight_bits"} < set(stored)
    assert stored["3.weight_bits"].shape == (8, 5)  # as MatMul takes it
    for node in model.graph.node:
        if node.op_type == "BipolarQuant":
            assert stored[node.input[1]] == 1  # QONNX then knows its output as bipolar
        if node.name.endswith("/weight"):
            np.testing.assert_array_equal(stored[node.input[0]], np.sign(stored[node.input[0]]))


@needs_qonnx
def test_the_executor_takes_the_sign_of_zero_for_plus_one(tmp_path):
    layer = quantize.BinaryLinear(3, 1, bias=False, scheme="bnn")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -0.0, -1.0]]))
    export(layer, tmp_path / "net.onnx", torch.randn(2, 3))
    x = torch.tensor([[0.0, -0.0, 0.0], [1e-30, -1e-30, torch.nan]])
    assert qonnx_outputs(tmp_path / "net.onnx", x)[0].tolist() == [[1.0], [1.0]]  # 1 + 1 - 1, 1 - 1 + 1


@needs_qonnx
@pytest.mark.parametrize(("w_bits", "a_bits"), [(2, 1), (3, 3), (5, 8), (8, 2), (32, 4), (4, 32)])
def test_the_levels_of_dorefa(w_bits, a_bits, tmp_path):
    layer = quantize.BinaryLinear(40, 6, scheme=f"dorefa:w_bits={w_bits},a_bits={a_bits}")
    export(layer, tmp_path / "net.onnx", torch.rand(2, 40))
    levels = 2 ** min(a_bits, 8) - 1
    ties = (torch.arange(levels) + 0.5) / levels
    x = torch.stack([torch.linspace(-0.5, 1.5, 40), ties[torch.randint(levels, (40,))]])
    expected = layer.double()(x.double()).detach().numpy()
    if a_bits < 32:  # what is rounded in float32 decides about ties
        expected = layer.float()(x).double().detach().numpy()
    np.testing.assert_allclose(qonnx_outputs(tmp_path / "net.onnx", x)[0], expected, rtol=1e-5, atol=1e-5)


@needs_qonnx
def test_a_network(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    prepared, _ = converted(models.create_model("nin_xnornet"), x)
    report = quantize.export_onnx(prepared, tmp_path / "net.onnx", x[:1], format="qonnx")
    assert report.parity.difference <= 1e-5
    nodes = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert nodes.count("BipolarQuant") == 2 * 7


@needs_qonnx
def test_what_the_flows_begin_with_keeps_the_answers_and_finds_the_bits(tmp_path):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.util.cleanup import cleanup_model

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        quantize.BinaryConv2d(8, 4, 3),
        nn.Flatten(),
        quantize.BinaryLinear(16, 5),
    ).eval()
    x = torch.randn(1, 3, 6, 6)
    export(net, tmp_path / "net.onnx", x)
    cleaned = cleanup_model(ModelWrapper(str(tmp_path / "net.onnx")), override_inpsize=tuple(x.shape))
    typed = cleaned.transform(InferDataTypes())
    signs = [node.output[0] for node in typed.graph.node if node.op_type == "BipolarQuant"]
    assert [typed.get_tensor_datatype(name).name for name in signs] == ["BIPOLAR"] * 4
    (found,) = onnx_session.QonnxSession(typed.model.SerializeToString()).run(
        None, {typed.graph.input[0].name: x.numpy()}
    )
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.fixture
def own_scheme(monkeypatch):
    """Registers a scheme until the test ends."""
    monkeypatch.setattr(scheme, "_REGISTRY", dict(scheme._REGISTRY))

    def register(weight, input=scheme.Scheme.input):
        @quantize.register_scheme("mine")
        @dataclass(frozen=True)
        class Mine(quantize.Scheme):
            def weight(self, filters, layer):
                return quantize.QuantizedWeight(weight(filters))

            @property
            def weight_bits(self):
                return 2

        Mine.input = input
        return quantize.BinaryLinear(5, 2, scheme="mine")

    return register


@pytest.mark.parametrize("levels", [(-3, -1, 1, 3), (-0.75, -0.25, 0.25, 0.75), (0, 0.1, 0.2, 0.3)])
def test_levels_of_a_scheme_of_ones_own(own_scheme, levels, tmp_path):
    layer = own_scheme(lambda filters: torch.tensor([*levels, *levels, *levels])[:10].view(2, 5).float())
    model = export(layer, tmp_path / "net.onnx", torch.randn(2, 5))
    assert "Quant" in [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("weight", "input", "reason"),
    [
        (
            lambda w: torch.tensor([0.0, 0.1, 0.5, 0.77, 1.0]).expand(2, 5),
            scheme.Scheme.input,
            "5 weight levels are not",
        ),
        (lambda w: w.sign(), lambda self, x, layer: x.round(), "scheme 'mine' quantizes its input in a way of its own"),
    ],
)
def test_what_has_no_form_is_refused(own_scheme, weight, input, reason, tmp_path):
    net = nn.Sequential(nn.Linear(5, 5), own_scheme(weight, input))
    with pytest.raises(ValueError, match=f"layer '1' has no QONNX form: .*{reason}.*; use format 'standard'"):
        quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 5), format="qonnx")
    assert not list(tmp_path.iterdir())


def test_a_converted_model_is_refused(tmp_path):
    packed = quantize.convert(quantize.BinaryLinear(5, 2), torch.randn(2, 5))
    with pytest.raises(ValueError, match="format 'qonnx' needs the model that was converted"):
        quantize.export_onnx(packed, tmp_path / "net.onnx", torch.randn(2, 5), format="qonnx")


def test_without_the_executor_the_report_says_that_nothing_was_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_session.importlib.util, "find_spec", lambda name: None)
    report = quantize.export_onnx(quantize.BinaryLinear(5, 2), tmp_path / "net.onnx", torch.randn(2, 5), format="qonnx")
    assert report.parity is None
    assert str(report).endswith("the package qonnx, which runs QONNX files, is not installed: pip install qonnx")
    assert formats.FORMATS["standard"].why_unchecked() == ""


@needs_qonnx
def test_one_wrong_weight_is_seen(tmp_path, monkeypatch):
    class Broken(formats.Format):
        def lower(self, model, batch):
            model, lowered = super().lower(model, batch)
            lowered.get_submodule("1").weight_bits.view(-1)[3].neg_()
            return model, lowered

    monkeypatch.setitem(formats.FORMATS, "broken", Broken(**vars(formats.FORMATS["qonnx"])))
    net = nn.Sequential(nn.Linear(5, 5), quantize.BinaryLinear(5, 2))
    with pytest.raises(quantize.ExportMismatch, match="first is at output 0"):
        quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 5), format="broken")
