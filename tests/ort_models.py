"""Small ONNX models of nodes of domain "xnorkit", and what the nodes compute, written out in float torch operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

import quantize
from quantize import packing
from quantize.kernels import cpu

HAS_SIGN_CONV = "avx512bw" in cpu.available_kernels()  # elsewhere its body is faster, and the library leaves it alone
OPERATORS = [
    f"BinaryConv{start}{end}{shuffle}"
    for start in ("", "FromBits")
    for end in ("", "ToBits", "Relu", "Scaled", "ReluScaled")
    for shuffle in ("", "Shuffle")
    if not (start and "Scaled" in end)
]


@dataclass
class Conv:
    """A binary convolution: filters (out, c, kh, kw), of which the signs count."""

    filters: Tensor
    group: int = 1
    strides: Sequence[int] = (1, 1)
    pads: Sequence[int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilations: Sequence[int] = (1, 1)
    shuffle: int = 1
    inputs: dict[str, Tensor] = field(default_factory=dict)  # by their names, in order

    @property
    def channels(self) -> int:
        return self.filters.shape[1] * self.group

    def attributes(self) -> dict[str, int | list[int]]:
        out, c, kh, kw = self.filters.shape
        return {
            "kernel_shape": [kh, kw],
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
            "group": self.group,
            "filter_shape": [out, kh, kw, c],
            "filter_bits": [kh * kw * c],
            "size_hint": [8, 8],
            "xnorkit_version": 1,
        }


def random_conv(operator: str, filters: Sequence[int], generator: torch.Generator, **options) -> Conv:
    """With random weights and constants, all that `operator` takes: thresholds have exact hits, both turns occur."""
    conv = Conv(torch.randn(filters, generator=generator), **options)
    out = filters[0]

    def integers(count: int) -> Tensor:
        return torch.randint(-2, 3, (count,), generator=generator).float()

    def turns(count: int) -> Tensor:
        return torch.randint(0, 2, (count,), generator=generator).float() * 2 - 1

    conv.inputs = {
        "weight_bits": packing.pack_weights(conv.filters),
        "scale": torch.rand(out, generator=generator) + 0.1,
        "bias": torch.randn(out, generator=generator),
    }
    if "FromBits" not in operator:
        conv.inputs |= {"threshold": integers(conv.channels), "turn": turns(conv.channels)}
    if "ToBits" in operator:
        conv.inputs |= {"output_threshold": torch.randn(out, generator=generator), "output_turn": turns(out)}
    return conv


def per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def signs(x: Tensor, threshold: Tensor, turn: Tensor) -> Tensor:
    return torch.where(x * per_channel(turn) >= per_channel(threshold), 1.0, -1.0)


def expected(operator: str, conv: Conv, x: Tensor, input_scale: Tensor | None = None) -> Tensor:
    """What the node computes."""
    c = conv.inputs
    if "FromBits" not in operator:
        x = signs(x, c["threshold"], c["turn"])
    top, left, bottom, right = conv.pads
    weight = torch.where(conv.filters >= 0, 1.0, -1.0)
    sums = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, conv.strides, 0, conv.dilations, conv.group)
    y = sums * per_channel(c["scale"])
    if input_scale is not None:
        y = y * input_scale.repeat_interleave(len(weight) // conv.group, 1)
    y = y + per_channel(c["bias"])
    if "Relu" in operator:
        y = y.relu()
    if "ToBits" in operator:
        y = signs(y, c["output_threshold"], c["output_turn"])
    if "Shuffle" in operator:
        y = y.unflatten(1, (conv.shuffle, -1)).transpose(1, 2).flatten(1, 2)
    return y


class Net:
    """An ONNX graph that grows node by node; its input is "x"."""

    def __init__(self, channels: int | None):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.inputs = {"x": [None, channels, None, None]}

    def node(self, operator: str, x: str, tensors: Mapping[str, Tensor], attributes: Mapping, *, more=()) -> str:
        """Adds a node with inputs `x`, initializers and `more`; the name of its output."""
        name = f"node{len(self.nodes)}"
        for key, tensor in tensors.items():
            self.initializers[f"{name}.{key}"] = tensor.numpy()
        inputs = [x, *(f"{name}.{key}" for key in tensors), *more]
        attributes = dict(attributes)
        self.nodes.append(helper.make_node(operator, inputs, [f"{name}.y"], name, domain="xnorkit", **attributes))
        return f"{name}.y"

    def conv(self, operator: str, x: str, conv: Conv) -> str:
        attributes = conv.attributes() | ({"shuffle": conv.shuffle} if "Shuffle" in operator else {})
        more = ()
        if "Scaled" in operator:
            self.inputs["input_scale"] = [None, conv.group, None, None]
            more = ("input_scale",)
        return self.node(operator, x, conv.inputs, attributes, more=more)

    def to_bits(self, x: str, channels: int) -> str:
        """The signs of x as bits: a depthwise 1x1 convolution whose weights are +1."""
        zeros, ones = torch.zeros(channels), torch.ones(channels)
        conv = _identity(channels) | {"threshold": zeros, "turn": ones, "output_threshold": zeros, "output_turn": ones}
        return self.conv("BinaryConvToBits", x, Conv(torch.ones(channels, 1, 1, 1), channels, inputs=conv))

    def from_bits(self, x: str, channels: int) -> str:
        """Bits as floats."""
        conv = Conv(torch.ones(channels, 1, 1, 1), channels, inputs=_identity(channels))
        return self.conv("BinaryConvFromBits", x, conv)

    def model(self, y: str, functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in self.inputs.items()]
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        tensors = [numpy_helper.from_array(array, name) for name, array in self.initializers.items()]
        graph = helper.make_graph(self.nodes, "net", values, [output], tensors)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("xnorkit", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def _identity(channels: int) -> dict[str, Tensor]:
    ones = torch.ones(channels)
    return {"weight_bits": packing.pack_weights(ones.view(-1, 1, 1, 1)), "scale": ones, "bias": torch.zeros(channels)}


def around(operator: str, conv: Conv) -> onnx.ModelProto:
    """A model of one node; where the node reads or writes bits, between nodes that make them from floats and back."""
    net = Net(conv.channels)
    x = net.to_bits("x", conv.channels) if "FromBits" in operator else "x"
    y = net.conv(operator, x, conv)
    return net.model(net.from_bits(y, len(conv.filters)) if "ToBits" in operator else y)


def session(model: onnx.ModelProto, *, kernels: bool = True, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if kernels:
        options.register_custom_ops_library(quantize.custom_ops_library())
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, *inputs: Tensor | None) -> Tensor:
    given = [x.numpy() for x in inputs if x is not None]
    feeds = dict(zip([value.name for value in session.get_inputs()], given, strict=True))
    return torch.from_numpy(session.run(None, feeds)[0])
