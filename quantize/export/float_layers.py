"""Float layers of a packed file: those that hand on bits, and all of them on numbers of 8 bits.

A first convolution of floats of whose result one packed convolution takes the signs, and nothing else, becomes one that
gives bits, so that its floats do not go through memory. It rounds as the standard's operator does.

In 8 bits layers are calibrated, replaced, and refused where they cost too much. What a number stands for is said in
:mod:`quantize.packed.int8.int8_layers`. What follows a layer is done on its sums: batch norm becomes part of the scale
and the bias, and where one packed convolution alone takes the signs of the result, these are bits that it gets, so that
the result itself is never rounded.

onnxruntime's own quantized operators are no faster than its float ones on the few input channels of a first layer, and
write bytes that the packed layer would have to make floats of again: hence functions of ours, see :mod:`.functions`.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ..packed.int8.calibration import BATCH, NO_LAYERS, Calibration, Int8Report, report_of
from ..packed.int8.int8_layers import MOST_PRODUCTS, Numbers
from .functions import DOMAIN, DOMAIN_VERSION
from .graph import constant_of, name_of
from .onnx_session import create_session
from .packed_format import add_functions

_VERSIONS = {"Int8ConvToBits": 2, "FloatConvToBits": 3}  # of the operators: the first that has the name
_LEAST_BITS = 2  # channels that a container of bits needs
# Where FloatConvToBits takes less time than onnxruntime's convolution and the packing of its result: 0.63 to 0.95.
# With strides, which leave fewer sums for each float read, it takes 0.86 to 1.27, with fewer filters 0.96 to 1.10.
# The same with floats at its end, plain or after a ReLU, takes 0.93 to 1.49 of onnxruntime's time: it has no operator.
# (AMD EPYC, AVX-512, onnxruntime 1.32, one thread; kernels of 1x1 to 16x16 on images of 28 to 224 pixels.)
_MOST_CHANNELS, _LEAST_FILTERS = 4, 32


@dataclass
class FloatLayer:
    """A convolution or a linear layer of floats, and the nodes behind it that become part of it.

    Attributes:
        node: the layer.
        filters: (out, in) or (out, in, kh, kw).
        factor, bias: (out,): what the sums are multiplied by, and what is added then.
        nodes: ``node`` and those that it takes in, in order.
        name: of the operator that takes their place.
    """

    node: ir.Node
    filters: np.ndarray
    factor: np.ndarray
    bias: np.ndarray
    nodes: list[ir.Node]
    name: str

    @property
    def input(self) -> ir.Value:
        return self.node.inputs[0]  # type: ignore[return-value]

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]


def hand_on_bits(program: ir.Model) -> None:
    """Make first convolutions of a packed program give bits, in place, where that is worth it."""
    changed = [_replace_by_bits(program.graph, node) for node in list(program.graph)]
    if any(changed):
        _state_operators(program)


def _replace_by_bits(graph: ir.Graph, node: ir.Node) -> bool:
    filters = _filters_of(node) if node.op_type == "Conv" else None
    reader = None if filters is None else _reader_of_signs(node.outputs[0], len(filters))
    if filters is None or reader is None or not _pays(node, filters):
        return False
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        bias = _constant(graph, f"{node.name}/bias", np.zeros(len(filters), np.float32))
    elif constant_of(bias) is None:
        return False
    inputs = [node.inputs[0], weight, bias, *_thresholds(reader)]
    _take_place(graph, [node], "FloatConvToBits", inputs, _window(node, filters.shape[2:]))
    _read_bits(reader)
    return True


def _pays(node: ir.Node, filters: np.ndarray) -> bool:
    strides = set(node.attributes.get_ints("strides", (1, 1)))
    return filters.shape[1] <= _MOST_CHANNELS and len(filters) >= _LEAST_FILTERS and strides == {1}


def quantize_float_layers(program: ir.Model, parameters: Container[str], calibration: Calibration) -> Int8Report:
    """Put the layers of a packed program whose weights are ``parameters`` in 8 bits, in place.

    Raises ValueError where there are none, where an output has no classes, or where that costs more than
    ``calibration.max_drop``.
    """
    layers = float_layers(program, parameters)
    if not layers:
        raise ValueError(NO_LAYERS)
    names = tuple(str(layer.node.name) for layer in layers)
    before, ranges = _run(program, calibration.images, layers)
    quantize_layers(program, layers, ranges)
    after, _ = _run(program, calibration.images)
    return report_of(names, before, after, calibration)


def _run(
    program: ir.Model, images: Tensor, layers: Sequence[FloatLayer] = ()
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The first output for the images, and the range of the input of each of ``layers``, in onnxruntime."""
    observed = list(dict.fromkeys(str(layer.input.name) for layer in layers))
    session = create_session(_watching(program, observed))
    (fed,), output = session.get_inputs(), session.get_outputs()[0].name
    asked = [output, *(name for name in observed if name != fed.name)]
    outputs, extremes = [], dict.fromkeys(observed, (np.inf, -np.inf))
    for batch in images.split(BATCH):
        values = {fed.name: batch.numpy()}
        values |= dict(zip(asked, session.run(asked, values), strict=True))
        outputs.append(values[output])
        for name, (low, high) in extremes.items():
            extremes[name] = min(low, float(values[name].min())), max(high, float(values[name].max()))
    return np.concatenate(outputs), [extremes[str(layer.input.name)] for layer in layers]


def _watching(program: ir.Model, names: list[str]) -> bytes:
    """The program in bytes, with the values of these names as further outputs."""
    proto = ir.to_proto(program)
    known = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for name in names:
        if name not in known:
            proto.graph.output.add(name=name).type.tensor_type.elem_type = ir.DataType.FLOAT.value
    return proto.SerializeToString()


def float_layers(program: ir.Model, parameters: Container[str]) -> list[FloatLayer]:
    """The convolutions and linear layers whose weights are among ``parameters``, by name, in the order of the graph.

    Other weights are constants of an operation, such as the mean over a window. Layers whose form our operators do not
    have stay float: convolutions of other than 2 dimensions or with groups, and linear layers of other than rows
    (N, inputs).
    """
    found = (
        _layer_of(node) for node in program.graph if len(node.inputs) > 1 and name_of(node.inputs[1]) in parameters
    )
    return [layer for layer in found if layer is not None and layer.filters[0].size <= MOST_PRODUCTS]


def _layer_of(node: ir.Node) -> FloatLayer | None:
    filters = _filters_of(node)
    if filters is None:
        return None
    outputs = len(filters)
    bias = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None  # a computed bias
    start = np.zeros(outputs) if bias is None else np.broadcast_to(bias.numpy().astype(np.float64), (outputs,))
    kind = "Int8Conv" if filters.ndim > 2 else "Int8Linear"
    layer = FloatLayer(node, filters, np.ones(outputs), start, [node], kind)
    _take_in_norm(layer)
    _take_in_relu(layer)
    return layer


def _filters_of(node: ir.Node) -> np.ndarray | None:
    """Float64 (out, in, ...) of a layer that has a form in 8 bits."""
    constant = constant_of(node.inputs[1]) if node.domain == "" else None
    if constant is None or constant.dtype != ir.DataType.FLOAT:
        return None
    weight = constant.numpy().astype(np.float64)
    if node.op_type == "Conv":
        fits = (
            weight.ndim == 4
            and node.attributes.get_int("group", 1) == 1
            and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
        )
        return weight if fits else None
    if node.op_type == "Gemm":
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if plain and not node.attributes.get_int("transA", 0):
            return weight if node.attributes.get_int("transB", 0) else weight.T
    if node.op_type == "MatMul" and weight.ndim == 2 and _rank(node.inputs[0]) == 2:
        return weight.T
    return None


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads a value, as its first input."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and uses[0].idx == 0 and not value.is_graph_output() else None


def _take_in_norm(layer: FloatLayer) -> None:
    norm = _only_reader(layer.output)
    if norm is None or norm.op_type != "BatchNormalization":
        return
    constants = [constant_of(value) for value in norm.inputs[1:]]
    if any(constant is None for constant in constants):
        return
    gamma, beta, mean, var = (constant.numpy().astype(np.float64) for constant in constants if constant is not None)
    layer.factor = gamma / np.sqrt(var + norm.attributes.get_float("epsilon", 1e-5))
    layer.bias = (layer.bias - mean) * layer.factor + beta
    layer.nodes.append(norm)


def _take_in_relu(layer: FloatLayer) -> None:
    relu = _only_reader(layer.output)
    if relu is not None and relu.op_type == "Relu":
        layer.nodes.append(relu)
        layer.name += "Relu"


def quantize_layers(program: ir.Model, layers: Sequence[FloatLayer], ranges: Sequence[tuple[float, float]]) -> None:
    """Put operators of 8 bits in the places of ``layers``, in place; ``ranges`` are those of their inputs."""
    for layer, extent in zip(layers, ranges, strict=True):
        _replace(program.graph, layer, *extent)
    _state_operators(program)


def _state_operators(program: ir.Model) -> None:
    """Bring functions, and the version of the operators that the file needs, up to date with the nodes, in place."""
    program.functions.clear()  # packed convolutions may have become others
    add_functions(program)
    ours = [node for node in program.graph if node.domain == DOMAIN]
    version = max((_VERSIONS.get(node.op_type, 1) for node in ours), default=1)
    if version > 1:
        for node in ours:  # bits flow: all of them are run by one library, or none
            node.attributes["xnorkit_version"] = ir.AttrInt64("xnorkit_version", version)


def _replace(graph: ir.Graph, layer: FloatLayer, low: float, high: float) -> None:
    tensors = _tensors(layer, low, high)
    inputs: list[ir.Value | None] = [
        _constant(graph, f"{layer.node.name}/{name}", tensor) for name, tensor in tensors.items()
    ]
    shape = layer.filters.shape
    attributes: dict[str, Any] = {"filter_shape": shape if len(shape) == 2 else (shape[0], *shape[2:], shape[1])}
    if len(shape) > 2:
        attributes |= _window(layer.node, shape[2:])
    reader = _reader_of_signs(layer.output, len(layer.filters)) if layer.name == "Int8Conv" else None
    if reader is None:
        _take_place(graph, layer.nodes, layer.name, [layer.input, *inputs], attributes)
    else:
        _take_place(graph, layer.nodes, "Int8ConvToBits", [layer.input, *inputs, *_thresholds(reader)], attributes)
        _read_bits(reader)


def _take_place(
    graph: ir.Graph, nodes: list[ir.Node], name: str, inputs: list[ir.Value | None], attributes: dict[str, Any]
) -> None:
    """Put an operator of ours where ``nodes`` are, and drop the constants that nobody else reads."""
    node = ir.node(name, inputs, attributes, domain=DOMAIN, version=DOMAIN_VERSION)
    node.name = nodes[0].name
    old, new = nodes[-1].outputs[0], node.outputs[0]
    new.name, new.shape, new.type = old.name, old.shape, old.type
    nodes[-1].append(node)
    if old.is_graph_output():
        graph.outputs[graph.outputs.index(old)] = new
    old.replace_all_uses_with(new)
    read = {value for gone in nodes for value in gone.inputs if value is not None}
    graph.remove(nodes, safe=True)
    for value in read:
        if value.is_initializer() and not value.uses():
            del graph.initializers[str(value.name)]


def _tensors(layer: FloatLayer, low: float, high: float) -> dict[str, np.ndarray]:
    """The inputs of the operator behind x."""
    filters = layer.filters
    rows = filters if filters.ndim == 2 else filters.transpose(0, 2, 3, 1).reshape(len(filters), -1)
    numbers = Numbers.of(rows, low, high)
    return {
        "numbers": numbers.weight,
        "scale": (numbers.scale * layer.factor).astype(np.float32),
        "bias": layer.bias.astype(np.float32),
        "x_inverse": np.array([numbers.inverse]),
        "x_zero": np.array([numbers.zero], np.float32),
    }


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.tensor(array).dtype)
    graph.register_initializer(value)
    return value


def _window(node: ir.Node, kernel: Sequence[int]) -> dict[str, Any]:
    attributes = node.attributes
    names = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
    return {"kernel_shape": kernel, "group": 1} | {
        name: tuple(attributes.get_ints(name, otherwise)) for name, otherwise in names.items()
    }


def _reader_of_signs(value: ir.Value, channels: int) -> ir.Node | None:
    """The packed convolution that alone reads a value, and of it no more than signs; None where bits do not fit."""
    reader = _only_reader(value)
    signs_only = reader is not None and reader.domain == DOMAIN and _reads_signs(reader.op_type)
    return reader if signs_only and channels >= _LEAST_BITS else None


def _reads_signs(name: str) -> bool:
    return name.startswith("BinaryConv") and "FromBits" not in name and "Scaled" not in name


def _thresholds(reader: ir.Node) -> Sequence[ir.Value | None]:
    """What a packed convolution compares floats with: thresholds and turns."""
    return reader.inputs[4:6]


def _read_bits(reader: ir.Node) -> None:
    """Make a packed convolution one of bits, in place."""
    inputs = [value for i, value in enumerate(reader.inputs) if i not in (4, 5)]
    reader.op_type = reader.op_type.replace("BinaryConv", "BinaryConvFromBits")
    for i, value in enumerate(inputs):
        reader.replace_input_with(i, value)
    reader.resize_inputs(len(inputs))
