"""Format "int8": integer operators of the standard, exact at every sum that there is."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from converted_models import Blocks, converted
from exported_models import K, assert_file_computes_the_same, assert_same_file, behind_a_convolution, prepared_layers
from onnx_runs import RUNTIMES, onnxruntime_outputs
from torch import nn

import models
import quantize
from quantize.export.int8_format import _least_sums

INTEGER = ("QLinearConv", "ConvInteger", "MatMulInteger", "DequantizeLinear", "MaxPool", "Conv")


def operators(path) -> dict[str, int]:
    found = Counter(node.op_type for node in onnx.load(path).graph.node)
    return {name: found[name] for name in INTEGER if found[name]}


def check(prepared: nn.Module, x: torch.Tensor, path, runtimes=RUNTIMES) -> dict[str, int]:
    """What the file computes with, which computes the same."""
    assert_file_computes_the_same(prepared, x, path, "int8", 1e-6, runtimes)
    return operators(path)


NETWORKS = {
    "pool": (lambda: Blocks(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), {"QLinearConv": 1, "MaxPool": 1, "ConvInteger": 1}),
    "shuffle, pools": (
        lambda: Blocks(nn.ChannelShuffle(4), nn.MaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True), groups=2),
        {"QLinearConv": 1, "MaxPool": 2, "ConvInteger": 1},
    ),
    "pool, shuffle": (
        lambda: Blocks(nn.MaxPool2d(2), nn.ChannelShuffle(4), groups=2),
        {"QLinearConv": 1, "MaxPool": 1, "ConvInteger": 1},
    ),
    "pool, batch norm, pool": (
        lambda: Blocks(nn.MaxPool2d(2), nn.BatchNorm2d(96), nn.MaxPool2d(2)),
        {"QLinearConv": 1, "MaxPool": 2, "ConvInteger": 1},
    ),
    "8-bit sums": (
        lambda: [nn.Conv2d(32, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ChannelShuffle(2)],
        {"QLinearConv": 3, "DequantizeLinear": 1},
    ),
    "depthwise": (
        lambda: [nn.Conv2d(32, 32, 3, 2, 1, groups=32), nn.ReLU()],
        {"QLinearConv": 2, "DequantizeLinear": 1},
    ),
    "reflect": (
        lambda: [nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect")],
        {"QLinearConv": 1, "ConvInteger": 1, "DequantizeLinear": 1},
    ),
    "strides": (lambda: [nn.Conv2d(32, 32, (3, 2), (2, 1), (0, 1), (1, 2))], {"QLinearConv": 1, "ConvInteger": 1}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_convolutions(name, tmp_path):
    build, expected = NETWORKS[name]
    prepared, _, x = behind_a_convolution(build, 1)
    assert check(prepared, x, tmp_path / "net.onnx") == expected


def test_a_window_scale_before_flipped_max_pooling(tmp_path):
    """Bits of floats, not of sums, inverted for the pooling."""
    x = torch.randn(4, 64, 11, 9)
    prepared, _ = converted(Blocks(nn.MaxPool2d(2)), x, keep_float=(), overrides={"conv1": K})
    assert check(prepared, x, tmp_path / "net.onnx") == {"ConvInteger": 2, "MaxPool": 1, "Conv": 1}


LAYERS = {
    "linears": (
        lambda: nn.Sequential(nn.Linear(100, 65), nn.BatchNorm1d(65), nn.Linear(65, 12), nn.ReLU()),
        "xnor", (4, 100), {"MatMulInteger": 2},
    ),
    "tokens": (lambda: nn.Linear(100, 12), "xnor", (4, 5, 100), {"MatMulInteger": 1}),
    "K of a linear layer": (lambda: nn.Linear(100, 12), K, (4, 100), {"MatMulInteger": 1}),
    "conv1ds": (
        lambda: nn.Sequential(nn.Conv1d(40, 24, 5), nn.Conv1d(24, 9, 3)),
        "bnn", (4, 40, 21), {"QLinearConv": 2, "DequantizeLinear": 1},
    ),
    "K": (
        lambda: nn.Sequential(nn.Conv2d(64, 32, 3, groups=2), nn.ReLU(), nn.ChannelShuffle(2)),
        K, (4, 64, 7, 6), {"ConvInteger": 1, "Conv": 1},
    ),
    "bwn": (lambda: nn.Conv2d(9, 33, 3, padding=1, groups=3), "bwn", (4, 9, 7, 6), {"Conv": 1}),
    "dorefa": (lambda: nn.Conv2d(9, 32, 3), "dorefa:w_bits=3,a_bits=2", (4, 9, 7, 6), {"Conv": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, tmp_path):
    build, scheme, shape, expected = LAYERS[name]
    prepared, x = prepared_layers(build, scheme, shape)
    assert check(prepared, x, tmp_path / "net.onnx") == expected


@pytest.mark.parametrize("inverted", [False, True])
def test_thresholds_are_exact_at_every_sum(inverted):
    channels, rows = 41, torch.arange(-41, 42)
    layer = quantize.packed.PackedConv2d(
        quantize.kernels.ConvGeometry(channels, 200), torch.zeros(200, 6, dtype=torch.uint8),
        torch.randn(200), 3 * torch.randn(200),
    )  # fmt: skip
    layer.scale[:20] = 0
    reached = rows[torch.randint(len(rows), (200,))] * layer.scale + layer.bias
    layer.output_threshold = torch.where(torch.rand(200) < 0.5, reached, 10 * torch.randn(200))
    layer.output_threshold[20:30], layer.output_threshold[30:40] = torch.inf, -torch.inf
    layer.output_flip = torch.rand(200) < 0.5
    invert = torch.rand(200) < 0.5 if inverted else None
    least, negated = (values.numpy() for values in _least_sums(layer, invert))

    sums = rows.numpy()[:, None].astype(np.float32)
    y = sums * layer.scale.numpy() + layer.bias.numpy()
    bits = np.where(layer.output_flip, y <= layer.output_threshold.numpy(), y >= layer.output_threshold.numpy())
    if inverted:
        bits = bits != invert.numpy()
    np.testing.assert_array_equal(np.where(negated, -sums, sums) >= least, bits)
    assert 0.2 < bits.mean() < 0.8
    assert negated.any()


# The most inputs of a filter whose sums fit into 8 bits, and what is used for one more.
ENDS = [(254, 0, "QLinearConv"), (255, 0, "ConvInteger"), (127, 1, "QLinearConv"), (128, 1, "ConvInteger")]


@pytest.mark.parametrize(("channels", "padding", "operator"), ENDS)
def test_the_largest_sums(channels, padding, operator, tmp_path):
    layer = quantize.BinaryConv2d(channels, 2, 1, padding=padding, bias=False, scheme="bnn")
    with torch.no_grad():
        layer.weight[0], layer.weight[1] = 1, -1
    x = torch.ones(2, channels, 3, 3) * torch.tensor([1, -1]).view(2, 1, 1, 1)
    quantize.export_onnx(layer, tmp_path / "net.onnx", x, format="int8")
    assert operator in operators(tmp_path / "net.onnx")
    inside = slice(padding, 3 + padding)
    for run in RUNTIMES.values():
        found = run(tmp_path / "net.onnx", x)[0]
        np.testing.assert_array_equal(found[:, 0], -found[:, 1])
        np.testing.assert_array_equal(found[:, 0, inside, inside], channels * x[:, 0])
        assert np.count_nonzero(found) == 2 * 2 * 9  # padding counts nothing


def test_nothing_is_dequantized_with_one_scale(tmp_path):
    """onnxruntime 1.21 then rounds the weights of the next convolution to 8 bits."""
    prepared, x = prepared_layers(lambda: nn.Conv2d(32, 1, 1, bias=False), "xnor", (4, 32, 7, 6))
    assert check(prepared, x, tmp_path / "net.onnx") == {"ConvInteger": 1}


def test_the_sign_of_nan_is_minus_one(tmp_path):
    x = torch.randn(4, 8, 5, 5)
    prepared, _ = converted(nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)), x, keep_float=())
    quantize.export_onnx(prepared, tmp_path / "net.onnx", x, format="int8")
    assert any(tensor.name.endswith("turn") for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer)
    x[0, :, 2, 2] = torch.nan
    expected = prepared(x).detach().numpy()
    np.testing.assert_allclose(onnxruntime_outputs(tmp_path / "net.onnx", x)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_network(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    prepared, _ = converted(models.create_model("nin_gc_xnornet"), x)
    used = check(prepared, x, tmp_path / "net.onnx", {"onnxruntime": onnxruntime_outputs})
    assert used == {"QLinearConv": 7, "DequantizeLinear": 2, "MaxPool": 1, "Conv": 2}
    stored = {t.data_type for t in onnx.load(tmp_path / "net.onnx").graph.initializer if "weight_bits" in t.name}
    assert stored == {onnx.TensorProto.INT8}


def test_a_converted_model_is_exported_as_it_is(tmp_path):
    assert_same_file(*behind_a_convolution(lambda: Blocks(nn.MaxPool2d(2)), 1), tmp_path, "int8")


def test_a_float_model(tmp_path):
    report = quantize.export_onnx(nn.Linear(7, 3), tmp_path / "net.onnx", torch.randn(2, 7), format="int8")
    assert report.parity.end_to_end <= 1e-5
