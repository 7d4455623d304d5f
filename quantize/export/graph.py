"""Names that a person can read: every node and value after the module that it comes from."""

import ast
from collections import Counter

import onnx_ir as ir
from torch import nn

# The exporter's record of where a node comes from: "['', 'features', 'features.3', 'conv2d']".
_SCOPES = "pkg.torch.onnx.name_scopes"

# A node that applies one of the model's own tensors is called after it, in these words where they differ.
_APPLYING = ("Add", "Sub", "Mul", "Cast", "BipolarQuant", "Quant")
_LABELS = {"weight_bits": "weight", "weight_scale": "scale"}


def name_everything(model: ir.Model, module: nn.Module, inputs: list[str]) -> None:
    """Name inputs, outputs, nodes, their results and constants, in place.

    A node of the module ``features.3`` is called ``features.3/Conv``, or after the parameter that it applies:
    ``features.3/scale``. Parameters keep their names, the first where they have several; the outputs are
    ``output``, or ``output_0``, ``output_1``, ...
    """
    graph = model.graph
    outputs = numbered("output", len(graph.outputs))
    taken = Counter(outputs)
    own = _name_parameters(graph, module, taken)
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = _unique(name, taken)
    for node in graph:
        node.name = _unique(_node_name(node, own), taken)
        for i, value in enumerate(node.outputs):
            value.name = _unique(f"{node.name}:{i}", taken) if i else node.name
    _name_constants(graph, own, taken)
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name


def forget_origin(model: ir.Model) -> None:
    """Remove the exporter's notes, in place: stack traces, with paths of this machine, and its own names."""
    graph = model.graph
    results = [value for node in graph for value in node.outputs]
    for item in (model, graph, *graph.inputs, *graph.initializers.values(), *graph, *results):
        item.metadata_props.clear()
        item.doc_string = None


def numbered(name: str, count: int) -> list[str]:
    """``name`` alone, or ``name_0``, ``name_1``, ..."""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def _unique(name: str, taken: Counter) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else _unique(f"{name}_{taken[name]}", taken)


def _name_parameters(graph: ir.Graph, module: nn.Module, taken: Counter) -> set[str]:
    """Call every parameter and buffer by its first name that is not ``taken``; the names of those in the graph."""
    first: dict[int, str] = {}
    tensors = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    names = {name: first.setdefault(id(tensor), name) for name, tensor in tensors}
    own = set()
    for value in list(graph.initializers.values()):
        if value.name in names:
            value.name = _unique(names[value.name], taken)
            own.add(value.name)
    return own


def _node_name(node: ir.Node, own: set[str]) -> str:
    # A module that is called again has a scope such as "features.3@1".
    scope = ast.literal_eval(node.metadata_props.get(_SCOPES, "['', '']"))[-2].split("@")[0]
    label = node.op_type
    if label in _APPLYING:
        applied = [value.name.rpartition(".")[2] for value in node.inputs if value.name in own]
        label = _LABELS.get(applied[0], applied[0]) if applied else label
    elif label == "Where" and [_scalar(value) for value in node.inputs[1:]] == [1.0, -1.0]:
        label = "sign"
    return f"{scope}/{label}" if scope else label


def _scalar(value: ir.Value) -> float | None:
    tensor = ir.convenience.get_const_tensor(value)
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _name_constants(graph: ir.Graph, own: set[str], taken: Counter) -> None:
    """Scalars are called by their value, other constants after the first node that reads them.

    One that no node reads is an output, and is called that.
    """
    for value in list(graph.initializers.values()):
        if value.name not in own and value.uses():
            scalar = _scalar(value)
            reader = value.uses()[0].node.name
            value.name = _unique(f"{reader}/constant" if scalar is None else f"{scalar:g}", taken)
