"""A network as the page runs it: parts in standard operators, which onnxruntime-web runs, and nodes of our kernels."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from quantize.export.functions import DOMAIN, VERSION, conv_name

from .standard import folded, inlined

POOL, AVERAGE = "BinaryMaxPool", "AveragePool"
CONVOLUTIONS = {
    conv_name(from_bits, to_bits, relu, False, shuffle): (from_bits, to_bits, relu, shuffle)
    for from_bits in (False, True)
    for to_bits in (False, True)
    for relu in (False, True)
    for shuffle in (False, True)
    if not (to_bits and relu)
}
KNOWN = frozenset({POOL, *CONVOLUTIONS})  # of page/kernels.mjs; other functions are inlined


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive nodes in standard operators, as a model of their own."""

    model: ModelProto
    inputs: list[str]
    outputs: list[str]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A node of our kernels: what page/kernels.mjs reads of it, and its tensors."""

    facts: dict[str, Any]
    tensors: dict[str, np.ndarray]


def split(model: ModelProto) -> list[Part | Kernel] | None:
    """The stages of a network in the order in which they run, or None where no kernel of ours takes part."""
    if not any(_known(node) for node in model.graph.node):
        return None
    model = folded(inlined(_without_float_bits(model), KNOWN))
    types, outputs = _types(model), {value.name for value in model.graph.output}
    if types is None or not _bits_stay_within(model.graph.node, outputs):
        return None
    ours = _ours(model.graph.node)
    runs = _runs(model.graph.node, {value.name for value in model.graph.input} | _constants(model), ours)
    stages: list[Part | Kernel] = []
    for i, run in enumerate(runs):
        if run[0].output[0] in ours:
            stages += [_kernel(node, model) for node in run]
        else:
            later = {name for other in runs[i + 1 :] for node in other for name in node.input}
            stages.append(_part(model, run, later | outputs, types))
    return stages


def _without_float_bits(model: ModelProto) -> ModelProto:
    """The model with a Conv for each FloatConvToBits, of which the page has no kernel: it compares floats itself."""
    result = ModelProto()
    result.CopyFrom(model)
    nodes, outputs = result.graph.node, {value.name for value in result.graph.output}
    for node in nodes:
        if (node.domain, node.op_type) != (DOMAIN, "FloatConvToBits"):
            continue
        readers = [other for other in nodes if node.output[0] in other.input]
        if node.output[0] not in outputs and all(_convolves_bits(other) for other in readers):
            _give_floats(node, readers)
    return result


def _convolves_bits(node: NodeProto) -> bool:
    return _known(node) and "FromBits" in node.op_type


def _give_floats(node: NodeProto, readers: Iterable[NodeProto]) -> None:
    """Make a FloatConvToBits a Conv, and the convolutions of its bits ones that compare its floats, in place."""
    thresholds = node.input[3:5]
    node.domain, node.op_type = "", "Conv"
    del node.input[3:]
    kept = [entry for entry in node.attribute if entry.name != "xnorkit_version"]
    del node.attribute[:]
    node.attribute.extend(kept)
    for reader in readers:
        reader.op_type = reader.op_type.replace("FromBits", "")
        first, rest = reader.input[:4], reader.input[4:]
        del reader.input[:]
        reader.input.extend([*first, *thresholds, *rest])


def _known(node: NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in KNOWN


def _ours(nodes: Iterable[NodeProto]) -> set[str]:
    """The outputs of nodes that the page computes itself: those of ours, and averages of what they give."""
    found: set[str] = set()
    for node in nodes:
        if _known(node) or node.op_type == AVERAGE and node.input[0] in found and _plain_average(node):
            found.add(node.output[0])
    return found


def _plain_average(node: NodeProto) -> bool:
    """Whether each window of an AveragePool counts its padding, and none reaches past it."""
    found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    counts_all = found.get("count_include_pad", 0) == 1 or not any(found.get("pads", ()))
    undilated = set(found.get("dilations", (1, 1))) == {1} and not found.get("ceil_mode", 0)
    return (
        len(found["kernel_shape"]) == 2 and counts_all and undilated and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    )


def _constants(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer} | {""}


def _runs(nodes: Iterable[NodeProto], ready: set[str], ours: set[str]) -> list[list[NodeProto]]:
    """The nodes in an order with few changes between those with outputs in ``ours`` and others: runs of one kind."""
    left, runs, mine = list(nodes), [], False
    while left:
        run, rest = [], []
        for node in left:
            if (node.output[0] in ours) == mine and ready.issuperset(node.input):
                run.append(node)
                ready.update(node.output)
            else:
                rest.append(node)
        if run:
            runs.append(run)
        left, mine = rest, not mine
    return runs


def _bits_stay_within(nodes: Sequence[NodeProto], outputs: set[str]) -> bool:
    """Whether only nodes of ours read the bits that nodes of ours write, and these read no others."""
    bits = {node.output[0] for node in nodes if _known(node) and "ToBits" in node.op_type or node.op_type == POOL}
    read = {node.input[0] for node in nodes if _convolves_bits(node) or node.op_type == POOL}
    return read <= bits and not bits & (outputs | {name for node in nodes if not _known(node) for name in node.input})


def _types(model: ModelProto) -> dict[str, int] | None:
    """The element type of each value; None where one is not known, or a node has a graph inside."""
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in attributes):
        return None
    typed = ModelProto()
    typed.CopyFrom(model)
    stated = {value.name for value in [*typed.graph.value_info, *typed.graph.output]}
    ours = {node.output[0] for node in typed.graph.node if _known(node)} - stated
    typed.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(ours))
    graph = onnx.shape_inference.infer_shapes(typed).graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input, *graph.output]}
    produced = {name for node in graph.node for name in node.output if name}
    return types if all(types.get(name) for name in produced) else None


def _part(model: ModelProto, nodes: list[NodeProto], later: set[str], types: dict[str, int]) -> Part:
    produced = {name for node in nodes for name in node.output}
    needed = {name for node in nodes for name in node.input} - produced
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    inputs = sorted(needed - _constants(model))
    outputs = sorted(produced & later)
    known = {value.name: value for value in [*model.graph.input, *model.graph.output]}

    def info(name: str) -> onnx.ValueInfoProto:
        return known.get(name) or helper.make_tensor_value_info(name, types[name], None)

    graph = helper.make_graph(nodes, "part", [*map(info, inputs)], [*map(info, outputs)], tensors)
    imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
    return Part(helper.make_model(graph, ir_version=model.ir_version, opset_imports=imports), inputs, outputs)


def _kernel(node: NodeProto, model: ModelProto) -> Kernel:
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if node.op_type == AVERAGE:
        defaults = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
        window = {name: attributes.get(name, default) for name, default in defaults.items()}
        window |= {"kernel_shape": attributes["kernel_shape"], "ceil_mode": 0}
        return Kernel({"op": "average", "input": node.input[0], "output": node.output[0], **window}, {})
    if attributes.get("xnorkit_version", 1) > VERSION:
        raise ValueError(
            f"node {node.name!r} needs version {attributes['xnorkit_version']} of xnorkit's operators and this is "
            f"version {VERSION}; install a newer xnorkit"
        )
    facts = {"op": "pool" if node.op_type == POOL else "conv", "input": node.input[0], "output": node.output[0]}
    facts |= {name: attributes[name] for name in ("kernel_shape", "strides", "pads", "dilations")}
    tensors = [_tensor(model, name) for name in node.input[1:]]
    if node.op_type == POOL:
        return Kernel(facts | {"ceil_mode": attributes["ceil_mode"]}, {"flip": _flip(tensors[0])})
    from_bits, to_bits, relu, shuffle = CONVOLUTIONS[node.op_type]
    facts |= {"from_bits": from_bits, "to_bits": to_bits, "relu": relu, "group": attributes["group"]}
    facts |= {"filter_shape": attributes["filter_shape"], "shuffle": attributes["shuffle"] if shuffle else 1}
    weights, scale, bias, *comparisons = tensors
    found = {"weights": weights, "scale": scale, "bias": bias}
    if not from_bits:
        found |= _comparison("threshold", "flip", *comparisons[:2])
    if to_bits:
        found |= _comparison("output_threshold", "output_flip", *comparisons[-2:])
    return Kernel(facts, found)


def _comparison(threshold: str, flip: str, values: np.ndarray, turn: np.ndarray) -> dict[str, np.ndarray]:
    """``turn x >= t``, as the file has it, is ``x >= t``, or ``x <= -t`` where the turn is -1, as the kernels ask."""
    return {threshold: values * turn, flip: _flip(turn)}


def _flip(turn: np.ndarray) -> np.ndarray:
    return (turn < 0).astype(np.uint8)


def _tensor(model: ModelProto, name: str) -> np.ndarray:
    """An input of a node of ours that is a constant. Raises ValueError where it is none."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    raise ValueError(f"{name!r}, an input of an xnorkit node, is no constant: the file is damaged")
