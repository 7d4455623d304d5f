"""Models that cannot be prepared, counted, converted or exported: one sentence says what to do instead."""

import pytest
import torch
import torchvision
from torch import nn

import quantize

X = torch.randn(2, 3, 16, 16)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))


def calls(model, path) -> dict:
    return {
        "plan": lambda: quantize.plan(model, "xnor", X),
        "prepare": lambda: quantize.prepare(model, "xnor"),
        "summary": lambda: quantize.summary(model, X),
        "convert": lambda: quantize.convert(model, X),
        "export": lambda: quantize.export_onnx(model, path / "net.onnx", X),
    }


@pytest.mark.parametrize("call", ["plan", "prepare", "summary", "convert", "export"])
@pytest.mark.parametrize("build", [torch.jit.script, lambda model: torch.jit.trace(model, X)], ids=["script", "trace"])
def test_scripted_models(build, call, tmp_path):
    with pytest.raises(TypeError, match=r"scripted or traced one, .*; give the nn.Module it was made of"):
        calls(build(network().eval()), tmp_path)[call]()


@pytest.mark.parametrize("call", ["plan", "prepare", "summary", "convert", "export"])
def test_exported_programs(call, tmp_path):
    program = torch.export.export(network(), (X,))
    with pytest.raises(TypeError, match="is a ExportedProgram, not an nn.Module; give the nn.Module it was made of"):
        calls(program, tmp_path)[call]()


@pytest.mark.parametrize("call", ["plan", "prepare", "summary"])
def test_modules_of_exported_programs(call, tmp_path):
    model = torch.export.export(network(), (X,)).module()
    with pytest.raises(TypeError, match="that of an exported program, without layers; give the nn.Module it was made"):
        calls(model, tmp_path)[call]()


def test_a_traced_graph_of_layers_is_none_of_them():
    assert quantize.plan(torch.fx.symbolic_trace(network()), "xnor", X).binary == ["2"]


def test_a_scripted_part_is_reported():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3))), *network()[2:])
    for example in (None, X):
        plan = quantize.plan(model, "xnor", example)
        assert plan.binary == ["2"]
        assert plan["1.0.weight"].reason == "it is in a scripted or traced module"


def test_models_without_values(tmp_path):
    with torch.device("meta"):
        model = network()
    instead = {"plan": "give no example_input", "summary": "give an example_input on the meta device"}
    prepared = quantize.prepare(model, "xnor")
    for name, call in calls(model, tmp_path).items():
        if name != "prepare":
            with pytest.raises(ValueError, match=f"'0.weight' is on the meta device .*{instead.get(name, '')}"):
                call()
    assert quantize.summary(prepared, X.to("meta")).binary_macs > 0
    values = prepared.to_empty(device="cpu")
    values.load_state_dict(quantize.prepare(network(), "xnor").state_dict())
    assert values(X).isfinite().all()


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = network()

    def forward(self, images: list[torch.Tensor]):
        assert isinstance(images, list)
        found = self.backbone(torch.stack(images)).flatten(1)
        return [one[one > 0] for one in found]


def test_detectors(tmp_path):
    images, model = list(X), Detector()
    with pytest.raises(ValueError, match=r"a list is taken for several arguments; write \(\[...\],\) for a model"):
        quantize.plan(model, "xnor", images)
    prepared = quantize.prepare(model, "xnor", (images,))
    assert quantize.summary(prepared, (images,)).binary_macs > 0
    with pytest.raises(TypeError, match="takes a list of images, .* export its parts .* model.backbone"):
        quantize.export_onnx(prepared, tmp_path / "net.onnx", (images,))
    quantize.export_onnx(prepared.backbone, tmp_path / "net.onnx", X)
    with pytest.raises(ValueError, match="missing 1 required positional argument: 'more'$"):  # a tuple would not help
        quantize.plan(TwoArguments(), "xnor", [X])


class TwoArguments(nn.Sequential):
    def __init__(self):
        super().__init__(*network())

    def forward(self, two_arguments, more):
        return super().forward(two_arguments + more)


def test_a_detector_of_torchvision_that_takes_a_batch(tmp_path):
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    prepared = quantize.prepare(model, "xnor", ([X[0], X[1]],)).eval()
    with pytest.raises(RuntimeError, match="export the parts: model.backbone, model.head"):
        quantize.export_onnx(prepared, tmp_path / "net.onnx", torch.rand(2, 3, 64, 64))


def test_no_advice_where_none_helps():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(ValueError, match=r"all 2 .* stay float \(.*own \(.*\)\)$"):
        quantize.plan(nn.Sequential(Own(4, 4), Own(4, 4)), "xnor", keep_float=())
    with pytest.raises(ValueError, match="change keep_float= or overrides=$"):
        quantize.plan(nn.Sequential(nn.Linear(4, 4)), "xnor")
