"""The valid files that are damaged: small networks of all kinds of nodes, with their function bodies."""

import math
import pickle
from pathlib import Path

import onnx
import torch
from onnx import helper
from ort_models import HAS_SIGN_CONV, Net, random_conv

from quantize import packing
from quantize.export.functions import function

POOL = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 1, 1, 0], "dilations": [1, 1], "ceil_mode": 1}


def _conv(operator: str, filters, seed: int, **options):
    return random_conv(operator, filters, torch.Generator().manual_seed(seed), **options)


def _finish(net: Net, y: str) -> onnx.ModelProto:
    net.nodes.append(helper.make_node("GlobalAveragePool", [y], ["mean"], "mean"))
    net.nodes.append(helper.make_node("Flatten", ["mean"], ["logits"], "flatten"))
    names = sorted({node.op_type for node in net.nodes if node.domain == "xnorkit"})
    return net.model("logits", [function(name) for name in names])


def one_layer() -> onnx.ModelProto:
    net = Net(6)
    conv = _conv("BinaryConvRelu", (8, 6, 3, 3), 0, pads=(1, 1, 1, 1))
    return _finish(net, net.conv("BinaryConvRelu", "x", conv))


def scaled() -> onnx.ModelProto:
    net = Net(6)
    conv = _conv("BinaryConvScaledShuffle", (12, 3, 3, 3), 1, group=2, strides=(2, 1), pads=(1, 1, 1, 1), shuffle=4)
    return _finish(net, net.conv("BinaryConvScaledShuffle", "x", conv))


def chain() -> onnx.ModelProto:
    """Bits from node to node: two convolutions, a max pooling, two ends."""
    net = Net(6)
    first = _conv("BinaryConvToBits", (70, 6, 3, 3), 2, pads=(1, 1, 1, 1))
    second = _conv("BinaryConvFromBitsToBitsShuffle", (64, 35, 3, 3), 3, group=2, dilations=(2, 2), shuffle=8)
    third = _conv("BinaryConvFromBitsRelu", (5, 64, 1, 2), 4)
    bits = net.conv("BinaryConvToBits", "x", first)
    bits = net.node("BinaryMaxPool", bits, {"turn": first.inputs["output_turn"]}, POOL)
    bits = net.conv("BinaryConvFromBitsToBitsShuffle", bits, second)
    return _finish(net, net.conv("BinaryConvFromBitsRelu", bits, third))


def linear() -> onnx.ModelProto:
    net = Net(6)
    bits = torch.randint(256, (5, 1), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    return _finish(
        net, net.node("SignMatMul", "x", {"weight_bits": bits}, {"filter_shape": [5, 8], "filter_bits": [8]})
    )


def _level_node(net: Net, operator: str, x: str, filters, planes: int, seed: int, **attributes) -> str:
    """A node of a layer of a few bits; filters are (outputs, *kernel, channels a group)."""
    generator = torch.Generator().manual_seed(seed)
    outputs, *sizes = filters
    bits = math.prod(sizes)
    tensors = {
        "weight_bits": packing.bits_to_bytes(torch.rand(planes * outputs, bits, generator=generator) > 0.5),
        "scale": (torch.rand(outputs, generator=generator) + 0.1) / bits,
        "bias": torch.randn(outputs, generator=generator),
    }
    attributes |= {"filter_shape": list(filters), "filter_bits": [bits], "bit_values": [2**j for j in range(planes)]}
    return net.node(operator, x, tensors, attributes)


def levels() -> onnx.ModelProto:
    """Numbers of two bits through a convolution, then a transposed one, then a linear layer of its rows."""
    net = Net(6)
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2], "group": 2}
    y = _level_node(net, "LevelConv", "x", (8, 3, 2, 3), 2, 6, input_largest=3, size_hint=[7, 8], **window)
    window = {"kernel_shape": [4, 3], "strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2], "group": 4}
    y = _level_node(net, "LevelConvTranspose", y, (12, 4, 3, 2), 1, 7, input_largest=15, **window)
    return _finish(net, _level_node(net, "LevelLinear", y, (5, 22), 3, 8, input_largest=1))


def levels_of_signs() -> onnx.ModelProto:
    """The same of signs, with taps that the padding hides, and outputs that no tap reaches."""
    net = Net(6)
    window = {"kernel_shape": [2, 1], "strides": [3, 2], "pads": [3, 0, 1, 0], "output_padding": [0, 1], "group": 1}
    y = _level_node(net, "LevelConvTransposeOfSigns", "x", (5, 2, 1, 6), 2, 9, **window)
    window = {"kernel_shape": [2, 2], "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1}
    y = _level_node(net, "LevelConvOfSigns", y, (4, 2, 2, 5), 1, 10, size_hint=[0, 0], **window)
    return _finish(net, _level_node(net, "LevelLinearOfSigns", y, (3, 15), 2, 11))


def volumes() -> onnx.ModelProto:
    """Numbers of two bits through a convolution of volumes, of slices between the taps; then signs through another."""
    net = Net(6)
    net.inputs["x"] = [None, 6, None, None, None]
    window = {"kernel_shape": [2, 3, 2], "strides": [2, 1, 1], "pads": [1, 0, 1, 0, 1, 1], "dilations": [2, 1, 2]}
    y = _level_node(
        net, "LevelConv3d", "x", (8, 2, 3, 2, 3), 2, 12, input_largest=3, size_hint=[5, 4, 6], group=2, **window
    )
    window = {"kernel_shape": [3, 1, 2], "strides": [1, 2, 1], "pads": [2, 0, 0, 1, 0, 0], "dilations": [1, 1, 1]}
    y = _level_node(net, "LevelConv3dOfSigns", y, (4, 3, 1, 2, 8), 1, 13, size_hint=[0, 0, 0], group=1, **window)
    return _finish(net, y)


def signs() -> onnx.ModelProto:
    """Floats through a convolution with signs."""
    net = Net(6)
    generator = torch.Generator().manual_seed(14)
    tensors = {
        "weight_bits": packing.bits_to_bytes(torch.rand(20, 18, generator=generator) > 0.5),
        "scale": torch.rand(20, generator=generator) + 0.1,
        "bias": torch.randn(20, generator=generator),
    }
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2], "group": 2}
    attributes = window | {"filter_shape": [20, 3, 2, 3], "filter_bits": [18], "size_hint": [7, 8]}
    return _finish(net, net.node("SignConv", "x", tensors, attributes))


def first_layer() -> onnx.ModelProto:
    """Floats through a convolution that gives bits."""
    net = Net(6)
    generator = torch.Generator().manual_seed(15)
    tensors = {
        "weight": torch.randint(-9, 10, (20, 6, 3, 2), generator=generator).float(),
        "bias": torch.randn(20, generator=generator),
        "output_threshold": torch.randn(20, generator=generator),
        "output_turn": torch.randint(0, 2, (20,), generator=generator) * 2.0 - 1,
    }
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2], "group": 1}
    bits = net.node("FloatConvToBits", "x", tensors, window | {"xnorkit_version": 3})
    return _finish(net, net.conv("BinaryConvFromBits", bits, _conv("BinaryConvFromBits", (5, 20, 2, 2), 16)))


# name: how it is built, and the shapes that it is fed
SEEDS = {
    "one_layer": (one_layer, {"x": (2, 6, 7, 8)}),
    "scaled": (scaled, {"x": (2, 6, 7, 8), "input_scale": (2, 2, 4, 8)}),
    "chain": (chain, {"x": (2, 6, 12, 13)}),
    "linear": (linear, {"x": (2, 6, 7, 8)}),
    "levels": (levels, {"x": (2, 6, 7, 8)}),
    "levels_of_signs": (levels_of_signs, {"x": (2, 6, 7, 8)}),
    "first_layer": (first_layer, {"x": (2, 6, 7, 8)}),
    "volumes": (volumes, {"x": (2, 6, 5, 4, 6)}),
    **({"signs": (signs, {"x": (2, 6, 7, 8)})} if HAS_SIGN_CONV else {}),
}


def write_seeds(directory: Path) -> dict[str, bytes]:
    """The valid files, by name; the worker reads them, and their inputs, from `directory`."""
    generator = torch.Generator().manual_seed(0)
    models = {name: build().SerializeToString() for name, (build, _) in SEEDS.items()}
    inputs = {
        name: {key: torch.randn(shape, generator=generator).numpy() for key, shape in shapes.items()}
        for name, (_, shapes) in SEEDS.items()
    }
    (directory / "models.pickle").write_bytes(pickle.dumps((models, inputs)))
    return models
