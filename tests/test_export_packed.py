"""Format "packed": functions over 1-bit weights that any runtime inlines."""

import onnx
import pytest
import torch
from converted_models import Blocks, converted
from exported_models import K, assert_file_computes_the_same, assert_same_file, behind_a_convolution, prepared_layers
from onnx import numpy_helper
from torch import nn

import models
import quantize


def functions(path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node if node.domain == "xnorkit"}


def check(net: nn.Module, x: torch.Tensor, path) -> set[str]:
    """The functions used in the file, which computes the same."""
    assert_file_computes_the_same(net, x, path, "packed", 1e-5)
    return functions(path)


POOLED = "BinaryConvToBits BinaryMaxPool BinaryConvFromBits"
NETWORKS = {
    "pool": (lambda: Blocks(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), POOLED),
    "ceil pool": (lambda: Blocks(nn.MaxPool2d(2, ceil_mode=True)), POOLED),
    "shuffle": (lambda: Blocks(nn.ChannelShuffle(4), groups=2), "BinaryConvToBitsShuffle BinaryConvFromBits"),
    "relu": (lambda: [nn.ReLU()], "BinaryConvRelu"),
    "float shuffle": (lambda: [nn.ChannelShuffle(4)], "BinaryConvShuffle"),
    "relu, shuffle": (lambda: [nn.ReLU(), nn.ChannelShuffle(4)], "BinaryConvReluShuffle"),
    "bits, relu": (lambda: [nn.Conv2d(32, 8, 3), nn.ReLU()], "BinaryConvToBits BinaryConvFromBitsRelu"),
    "bits, shuffle": (
        lambda: [nn.Conv2d(32, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ChannelShuffle(2)],
        "BinaryConvToBits BinaryConvFromBitsToBits BinaryConvFromBitsShuffle",
    ),
    "reflect": (lambda: [nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect")], "BinaryConv"),
    "strides": (lambda: [nn.Conv2d(32, 32, (3, 2), (2, 1), (0, 1), (1, 2))], "BinaryConvToBits BinaryConvFromBits"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions(name, tmp_path):
    build, expected = NETWORKS[name]
    prepared, _, x = behind_a_convolution(build, 3)
    assert check(prepared, x, tmp_path / "net.onnx") == set(expected.split())


LAYERS = {
    "linear": (lambda: nn.Linear(100, 12), "xnor", (4, 100), "BinaryConv"),
    "tokens": (lambda: nn.Linear(100, 12), "xnor", (4, 5, 100), "BinaryConv"),
    "linears": (
        lambda: nn.Sequential(nn.Linear(100, 65), nn.BatchNorm1d(65), nn.Linear(65, 12)),
        "xnor",
        (4, 100),
        "BinaryConvToBits BinaryConvFromBits",
    ),
    "linears of tokens": (
        lambda: nn.Sequential(nn.Linear(100, 65), nn.ReLU(), nn.Linear(65, 64), nn.Linear(64, 12)),
        "xnor",
        (4, 5, 100),
        "BinaryConvToBits BinaryConvFromBitsToBits BinaryConvFromBits",
    ),
    "linears of a map": (
        lambda: nn.Sequential(nn.Linear(100, 65), nn.Linear(65, 12)),
        "xnor",
        (4, 2, 5, 100),
        "BinaryConvToBits BinaryConvFromBits",
    ),
    "linears of windows": (
        lambda: nn.Sequential(nn.Linear(100, 65), nn.Linear(65, 12)),
        "xnor",
        (4, 3, 2, 5, 100),
        "BinaryConvToBits BinaryConvFromBits",
    ),
    "conv1d": (lambda: nn.Conv1d(40, 24, 5, stride=2, groups=2), "bireal", (4, 40, 21), "BinaryConv"),
    "conv1ds": (
        lambda: nn.Sequential(nn.Conv1d(40, 24, 5), nn.Conv1d(24, 9, 3)),
        "bnn",
        (4, 40, 21),
        "BinaryConvToBits BinaryConvFromBits",
    ),
    "K": (lambda: nn.Conv2d(64, 32, 3, padding=1, groups=4), K, (4, 64, 7, 6), "BinaryConvScaled"),
    "K, end": (
        lambda: nn.Sequential(nn.Conv2d(64, 32, 3, groups=2), nn.ReLU(), nn.ChannelShuffle(2)),
        K,
        (4, 64, 7, 6),
        "BinaryConvReluScaledShuffle",
    ),
    "K of a linear layer": (lambda: nn.Linear(100, 12), K, (4, 100), "BinaryConvScaled"),
    "bwn": (lambda: nn.Conv2d(9, 33, 3, padding=1, groups=3), "bwn", (4, 9, 7, 6), "BinaryWeight"),
    "bwn linear": (lambda: nn.Linear(33, 5), "bwn", (4, 33), "SignMatMul"),
    "ternary": (lambda: nn.Linear(33, 5), "ternary", (4, 2, 33), "SignMatMul"),
    "ternary, more rows": (lambda: nn.Linear(33, 5), "ternary", (4, 33, 33), "BinaryWeight"),
    "int8": (lambda: nn.Conv2d(9, 32, 3), "int8", (4, 9, 7, 6), "BinaryWeight"),
    "transposed": (lambda: nn.ConvTranspose2d(9, 6, 3, stride=2), "xnor", (4, 9, 7, 6), "BinaryWeight"),
    "dorefa": (lambda: nn.Conv2d(9, 32, 3), "dorefa:w_bits=3,a_bits=2", (4, 9, 7, 6), "BinaryWeight"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    build, scheme, shape, expected = LAYERS[name]
    prepared, x = prepared_layers(build, scheme, shape)
    assert check(prepared, x, tmp_path / "net.onnx") == set(expected.split())


def test_a_network_is_as_small_as_its_bits(tmp_path):
    x = torch.randn(4, 3, 32, 32)
    prepared, packed = converted(models.create_model("nin_gc_xnornet"), x)
    used = check(prepared, x, tmp_path / "net.onnx")
    assert used == {
        "BinaryConvToBitsShuffle", "BinaryConvFromBitsToBitsShuffle", "BinaryMaxPool", "BinaryConvFromBitsReluShuffle",
    }  # fmt: skip
    size = (tmp_path / "net.onnx").stat().st_size
    assert size < quantize.summary(packed, x).packed_bytes + 50_000  # scales of 1, thresholds, bodies, names
    weights = [t for t in onnx.load(tmp_path / "net.onnx").graph.initializer if t.name.endswith("weight_bits")]
    binary = [m for m in prepared.modules() if isinstance(m, quantize.BinaryLayer)]
    assert sum(numpy_helper.to_array(t).nbytes for t in weights) == sum(m.weight.numel() for m in binary) / 8


def test_a_converted_model_is_exported_as_it_is(tmp_path):
    prepared, packed, x = behind_a_convolution(lambda: Blocks(nn.ReLU()), 3)
    assert_same_file(prepared, packed, x, tmp_path, "packed")
    with pytest.raises(ValueError, match="format 'standard' needs the model that was converted"):
        quantize.export_onnx(packed, tmp_path / "net.onnx", x, format="standard")


def test_a_float_model_has_no_functions(tmp_path):
    report = quantize.export_onnx(nn.Linear(7, 3), tmp_path / "net.onnx", torch.randn(2, 7), format="packed")
    assert report.parity.end_to_end <= 1e-5
    assert functions(tmp_path / "net.onnx") == set()
