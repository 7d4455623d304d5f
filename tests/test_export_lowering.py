"""The tables of the formats: which layers they reach, and what is left of a layer in what is traced."""

import numpy as np
import onnx
import pytest
import torch
from converted_models import Blocks
from exported_models import behind_a_convolution
from onnx_runs import runtimes
from torch import nn

import quantize
from quantize.export.formats import FORMATS
from quantize.export.lowering import lowering_of
from quantize.packed import PackedConv2d, PackedLinear

pytestmark = pytest.mark.core


class OwnPackedLinear(PackedLinear):
    """A user's subclass."""


class Doubled(quantize.BinaryLinear):
    """A layer of a user's own, with a forward that calls the layer's."""

    def forward(self, input):
        return 2 * super().forward(input)


class Listed(nn.Module):
    """Calls its layers from a list of its own, by keyword, with hooks, and reads what float layers have."""

    def __init__(self, kind=quantize.BinaryLinear):
        super().__init__()
        self.first, self.last = kind(40, 40), kind(40, 40)
        self.layers = [self.first, self.last]
        self.first.register_forward_hook(lambda layer, args, y: y + 1)

    def forward(self, x):
        for layer in self.layers:
            x = layer(input=x) * layer.in_features + layer.weight.shape[0] + layer.weight.dim()
        return x


def assert_same_answers(net: nn.Module, path, format: str, expected: nn.Module | None = None) -> None:
    quantize.export_onnx(net, path, torch.randn(2, 40), format=format)
    x = torch.randn(5, 40)
    answers = (expected or net)(x).detach().numpy()
    for run in runtimes(format).values():
        np.testing.assert_allclose(run(path, x)[0], answers, rtol=1e-5, atol=1e-5 * np.abs(answers).max())


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_model_does_with_its_layers_is_in_the_file(format, tmp_path):
    net = Listed(Doubled if format in ("standard", "qonnx") else quantize.BinaryLinear).eval()
    assert_same_answers(net, tmp_path / "net.onnx", format)
    domains = {node.domain for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert domains >= {"packed": {"xnorkit"}, "qonnx": {"qonnx.custom_op.general"}}.get(format, {""})


@pytest.mark.parametrize("format", ["packed", "int8"])
def test_a_subclass_of_a_layer_has_its_row(format, tmp_path):
    net = nn.Sequential(nn.Linear(40, 40), quantize.BinaryLinear(40, 6)).eval()
    packed = quantize.convert(net, torch.randn(2, 40))
    packed[1].__class__ = OwnPackedLinear
    assert lowering_of(packed[1], FORMATS[format].layers) is FORMATS[format].layers[PackedLinear]
    assert_same_answers(packed, tmp_path / "net.onnx", format, net)
    used = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert used >= ({"BinaryConv"} if format == "packed" else {"MatMulInteger"})
    assert type(packed[1]) is OwnPackedLinear


def test_the_nearest_row_is_taken():
    class Own(PackedConv2d):
        pass

    table = {nn.Module: "any", PackedConv2d: "packed", Own: "own"}
    layers = [object.__new__(kind) for kind in (Own, PackedConv2d, PackedLinear, nn.Linear)]
    assert [lowering_of(layer, table) for layer in layers] == ["own", "packed", "any", "any"]
    assert lowering_of(layers[-1], {PackedConv2d: "packed"}) is None


def test_bits_whose_inversion_cannot_be_followed_are_refused(tmp_path):
    _, packed, x = behind_a_convolution(lambda: Blocks(nn.MaxPool2d(2)), 1)
    packed.conv2.register_forward_hook(lambda layer, args, y: y)
    with pytest.raises(ValueError, match="layer 'between.0' has no INT8 form: the layers on both sides .* hooks"):
        quantize.export_onnx(packed, tmp_path / "net.onnx", x, format="int8", check=False)
    assert not list(tmp_path.iterdir())


class Leaky(nn.PReLU):
    """A user's subclass with a forward of its own."""

    def forward(self, input):
        return super().forward(input) - 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("parameters", [1, 40])
def test_a_prelu_is_no_branch_on_values(format, parameters, tmp_path):
    """onnxruntime's PRelu takes ten times as long as what it is made of; FINN's tools know it by its name."""
    torch.manual_seed(0)
    layers = nn.Linear(40, 40), nn.PReLU(parameters), nn.Linear(40, 40), Leaky(parameters), nn.Linear(40, 40)
    net = quantize.prepare(nn.Sequential(*layers), "xnor", torch.randn(2, 40)).eval()
    nn.init.normal_(net[1].weight)
    assert_same_answers(net, tmp_path / "net.onnx", format)
    operators = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert operators.count("PRelu") == (2 if format == "qonnx" else 1)


def test_a_prelu_of_images_and_of_one_channel(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 9, 9)
    net = quantize.prepare(net, "bireal", x).eval()
    nn.init.normal_(net[1].weight)
    assert "PRelu" not in {node.op_type for node in exported_nodes(net, x, tmp_path)}


def exported_nodes(net: nn.Module, x: torch.Tensor, folder) -> list[onnx.NodeProto]:
    quantize.export_onnx(net, folder / "net.onnx", x)
    return list(onnx.load(folder / "net.onnx").graph.node)
