"""Format "packed": functions over 1-bit weights that any runtime inlines."""

import onnx
import pytest
import torch
from converted_models import Blocks, converted
from exported_models import K, assert_file_computes_the_same, assert_same_file, behind_a_convolution, prepared_layers
from onnx import numpy_helper
from onnx_runs import onnxruntime_outputs
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
    "bwn, large": (lambda: nn.Conv2d(256, 64, (3, 2), padding=1, groups=2), "bwn", (4, 256, 5, 6), "BinaryWeight"),
    "bwn, larger": (lambda: nn.Conv2d(128, 96, (3, 2), padding=(1, 0)), "bwn", (4, 128, 5, 6), "SignConv"),
    "bwn, groups": (lambda: nn.Conv2d(256, 120, 3, bias=False, groups=2), "bwn", (4, 256, 5, 6), "SignConv"),
    "bwn, strides": (lambda: nn.Conv2d(128, 120, 3, 2), "bwn", (4, 128, 7, 6), "BinaryWeight"),
    "bwn, pixels": (lambda: nn.Conv2d(128, 512, 1), "bwn", (4, 128, 7, 6), "BinaryWeight"),
    "bwn, padded": (lambda: nn.Conv2d(128, 96, 3, 1, 1, padding_mode="reflect"), "bwn", (4, 128, 5, 6), "BinaryWeight"),
    "bwn conv1d": (lambda: nn.Conv1d(128, 128, 5, padding=2), "bwn", (4, 128, 9), "SignConv"),
    "bwn conv3d": (lambda: nn.Conv3d(128, 64, (1, 2, 3)), "bwn", (2, 128, 3, 4, 3), "BinaryWeight"),
    "bwn conv3d, large": (lambda: nn.Conv3d(128, 64, 3), "bwn", (2, 128, 3, 4, 3), "SignConv"),
    "bwn conv3d, windows": (
        lambda: nn.Conv3d(86, 100, (3, 3, 3), (2, 1, 1), (1, 2, 0), (2, 1, 1), bias=False),
        "binaryconnect",
        (4, 86, 7, 4, 3),
        "SignConv",
    ),
    "bwn, transposed": (lambda: nn.ConvTranspose2d(128, 96, 3), "bwn", (2, 128, 5, 4), "BinaryWeight"),
    "binaryconnect, large": (lambda: nn.Conv2d(128, 64, 3), "binaryconnect", (4, 128, 7, 6), "SignConv"),
    "ternary, large": (lambda: nn.Conv2d(128, 64, 3), "ternary", (4, 128, 7, 6), "BinaryWeight"),
    "bwn linear": (lambda: nn.Linear(33, 5), "bwn", (4, 33), "SignMatMul"),
    "ternary": (lambda: nn.Linear(33, 5), "ternary", (4, 2, 33), "SignMatMul"),
    "ternary, more rows": (lambda: nn.Linear(33, 5), "ternary", (4, 33, 33), "BinaryWeight"),
    "int8": (lambda: nn.Conv2d(9, 32, 3), "int8", (4, 9, 7, 6), "BinaryWeight"),
    "transposed": (lambda: nn.ConvTranspose2d(9, 6, 3, stride=2), "xnor", (4, 9, 7, 6), "LevelConvTransposeOfSigns"),
    "transposed, dilated": (lambda: nn.ConvTranspose2d(9, 6, 3, dilation=2), "xnor", (4, 9, 7, 6), "BinaryWeight"),
    "transposed, bwn": (lambda: nn.ConvTranspose2d(9, 6, 3, stride=2), "bwn", (4, 9, 7, 6), "BinaryWeight"),
    "transposed, dorefa": (
        lambda: nn.ConvTranspose2d(8, 6, (4, 3), stride=(2, 3), padding=1, output_padding=(1, 2)),
        "dorefa:w_bits=2,a_bits=2",
        (4, 8, 5, 6),
        "LevelConvTranspose",
    ),
    "transposed, one dimension": (
        lambda: nn.ConvTranspose1d(8, 6, 4, stride=3, padding=2),
        "dorefa",
        (4, 8, 9),
        "LevelConvTranspose",
    ),
    "dorefa": (lambda: nn.Conv2d(9, 32, 3), "dorefa:w_bits=3,a_bits=2", (4, 9, 7, 6), "LevelConv"),
    "dorefa, groups": (
        lambda: nn.Conv2d(12, 18, (3, 2), 2, (2, 1), (1, 2), 3),
        "dorefa:w_bits=1,a_bits=4",
        (4, 12, 9, 8),
        "LevelConv",
    ),
    "dorefa, 1 bit": (lambda: nn.Conv2d(9, 32, 3, padding=1), "dorefa:w_bits=1,a_bits=1", (4, 9, 7, 6), "LevelConv"),
    "dorefa, 8 bits": (lambda: nn.Conv2d(9, 32, 3), "dorefa:w_bits=1,a_bits=8", (4, 9, 7, 6), "BinaryWeight"),
    "dorefa, padded": (
        lambda: nn.Conv2d(9, 32, 3, padding=1, padding_mode="reflect"),
        "dorefa",
        (4, 9, 7, 6),
        "BinaryWeight",
    ),
    "dorefa conv1d": (lambda: nn.Conv1d(9, 12, 3, 2, 2, bias=False), "dorefa", (4, 9, 11), "LevelConv"),
    "conv3d": (
        lambda: nn.Conv3d(8, 12, (3, 2, 3), (2, 1, 3), (2, 0, 1), (1, 2, 1), 4),
        "xnor",
        (4, 8, 5, 6, 7),
        "LevelConv3dOfSigns",
    ),
    "dorefa conv3d": (lambda: nn.Conv3d(9, 12, 3), "dorefa", (4, 9, 5, 6, 7), "LevelConv3d"),
    "dorefa conv3d, same": (
        lambda: nn.Conv3d(9, 12, (2, 3, 4), padding="same", bias=False),
        "dorefa:w_bits=2,a_bits=2",
        (4, 9, 5, 6, 7),
        "LevelConv3d",
    ),
    "conv3d, padded": (
        lambda: nn.Conv3d(9, 12, 3, padding=1, padding_mode="circular"),
        "xnor",
        (4, 9, 5, 6, 7),
        "BinaryWeight",
    ),
    "dorefa linear": (lambda: nn.Linear(70, 11), "dorefa:w_bits=2,a_bits=2", (4, 70), "LevelLinear"),
    "dorefa of a map": (
        lambda: nn.Linear(70, 11, bias=False),
        "dorefa:w_bits=4,a_bits=4",
        (4, 2, 5, 70),
        "LevelLinear",
    ),
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
        "FloatConvToBits", "BinaryConvToBitsShuffle", "BinaryConvFromBitsToBitsShuffle", "BinaryMaxPool",
        "BinaryConvFromBitsReluShuffle",
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


@pytest.mark.parametrize("build", [lambda: nn.Conv2d(9, 32, 3, padding=1), lambda: nn.Conv1d(9, 32, 3, bias=False)])
def test_scales_of_places_follow_a_layer_of_signs(build, tmp_path):
    net = build()
    x = torch.randn(4, 9, *[7] * len(net.kernel_size))
    prepared = quantize.prepare(nn.Sequential(net), "xnorpp:spatial=true", x, keep_float=())
    assert check(prepared, x, tmp_path / "net.onnx") == {"LevelConvOfSigns"}


@pytest.mark.parametrize("scheme", ["xnor", "dorefa:w_bits=2,a_bits=2"])
def test_groups_of_transposed_layers(scheme, tmp_path):
    """The standard's reference implementation does not compute them."""
    net, x = prepared_layers(lambda: nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2), scheme, (4, 8, 5, 6))
    runtimes = {"onnxruntime": onnxruntime_outputs}
    assert_file_computes_the_same(net, x, tmp_path / "net.onnx", "packed", 1e-5, runtimes)
    (name,) = functions(tmp_path / "net.onnx")
    assert name.startswith("LevelConvTranspose")


def test_a_transposed_layer_that_is_given_its_size_expands(tmp_path):
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(9, 6, 3, stride=2)

        def forward(self, x):
            return self.up(x, output_size=(16, 14))

    prepared, x = prepared_layers(Sized, "xnor", (4, 9, 7, 6))
    assert check(prepared, x, tmp_path / "net.onnx") == {"BinaryWeight"}


@pytest.mark.parametrize(
    ("build", "scheme", "shape", "rows"),
    [
        (lambda: nn.Conv3d(16, 32, 3), "xnor", (4, 16, 3, 4, 5), (32, 54)),
        (lambda: nn.Conv3d(16, 32, 3), "dorefa:w_bits=2,a_bits=2", (4, 16, 3, 4, 5), (64, 54)),
        (lambda: nn.Conv2d(128, 64, 3), "bwn", (4, 128, 3, 4), (64, 144)),
    ],
)
def test_convolutions_are_as_small_as_their_bits(build, scheme, shape, rows, tmp_path):
    prepared, x = prepared_layers(build, scheme, shape)
    quantize.export_onnx(prepared, tmp_path / "net.onnx", x)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer}
    weight_bits = tensors.pop("weight_bits")
    assert (weight_bits.dtype, weight_bits.shape) == ("uint8", rows)
    channels = {prepared.in_channels, prepared.out_channels}
    assert {t.size for t in tensors.values()} <= channels  # thresholds, scales, biases


@pytest.mark.parametrize(("scheme", "codes"), [("dorefa:w_bits=1,a_bits=4", 1), ("dorefa:w_bits=2,a_bits=2", 2)])
def test_layers_of_several_bits_are_as_small_as_their_bits(scheme, codes, tmp_path):
    """A bit of the file for a bit of a weight, and nothing else of its size."""
    prepared, x = prepared_layers(lambda: nn.Linear(640, 64), scheme, (4, 640))
    quantize.export_onnx(prepared, tmp_path / "net.onnx", x)
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert {name: (t.dtype.name, t.shape) for name, t in tensors.items()} == {
        "weight_bits": ("uint8", (64 * codes, 80)),
        "scale": ("float32", (64,)),
        "bias": ("float32", (64,)),
    }
