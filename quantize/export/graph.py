"""What becomes of a traced graph: constants are folded, and every node and value named after its module."""

import ast
from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
from onnx_ir.passes import common as passes
from torch import nn

# The exporter's record of where a node comes from: "['', 'features', 'features.3', 'conv2d']".
_SCOPES = "pkg.torch.onnx.name_scopes"

# A node that applies one of the model's own tensors is called after it, in these words where they differ.
_APPLYING = ("Add", "Sub", "Mul", "Cast", "BipolarQuant", "Quant")
_LABELS = {"weight_bits": "weight", "weight_scale": "scale"}


def simplify(model: ir.Model) -> None:
    """Fold constants and remove what computes nothing, in place. Weights stay int8, batch norm stays a node."""
    _fix_reshape_targets(model.graph)
    _leave_out_windows(model.graph)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_should_fold)
    _drop_zero_bias(model.graph)
    for tidy in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(size_limit=1),
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
    ):
        tidy(model)
    _put_scale_first(model.graph)


def _should_fold(node: ir.Node) -> bool | None:
    """Keep the Cast of a stored weight: folded, it would take 32 bits a weight."""
    stored = node.inputs[0] if node.op_type == "Cast" else None
    return False if stored is not None and stored.dtype == ir.DataType.INT8 else None


def _fix_reshape_targets(graph: ir.Graph) -> None:
    """Write (-1, 256, 8, 8) where the exporter computes the shape from the batch size at run time."""
    for node in list(graph):
        shape = node.outputs[0].shape if node.op_type == "Reshape" else None
        if shape is None:
            continue
        target = [size if isinstance(size, int) else -1 for size in shape]
        if target.count(-1) <= 1 and 0 not in target:
            constant = ir.node("Constant", [], {"value": ir.tensor(np.array(target, np.int64))})
            node.prepend(constant)
            node.replace_input_with(1, constant.outputs[0])


def _leave_out_windows(graph: ir.Graph) -> None:
    """Pad a max pooling for PyTorch's number of windows where ``ceil_mode`` has one more in this opset.

    It is one that starts behind the input and its first padding, which PyTorch leaves out.
    """
    for node in graph:
        if node.op_type not in ("MaxPool", "BinaryMaxPool") or not node.attributes.get_int("ceil_mode", 0):
            continue
        names = ("kernel_shape", "strides", "dilations", "pads")
        kernel, strides, dilations, pads = (np.array(node.attributes.get_ints(name)) for name in names)
        shapes = [value.shape for value in (node.inputs[0], node.outputs[0]) if value is not None]
        x, y = ([size for size in (shape or ())[2:] if isinstance(size, int)] for shape in shapes)
        if not len(x) == len(y) == len(kernel):  # the exporter says no shapes of a pooling without a batch
            continue
        before, after = pads[: len(x)], pads[len(x) :]
        last = np.array(x) + before - dilations * (kernel - 1) - 1  # where the last window that is whole starts
        if (-(-(last + after) // strides) + 1 != y).any():
            after = ((np.array(y) - 1) * strides - last).clip(0)
            node.attributes["pads"] = ir.AttrInt64s("pads", [*before.tolist(), *after.tolist()])
            node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)


def _drop_zero_bias(graph: ir.Graph) -> None:
    """A convolution without bias is exported with a bias of zeros."""
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3:
            bias = constant_of(node.inputs[2])
            if bias is not None and not bias.numpy().any():
                node.replace_input_with(2, None)


def _put_scale_first(graph: ir.Graph) -> None:
    """``Mul(scale, y)``: onnxruntime folds the factor of ``Mul(y, scale)`` into the weights of a convolution.

    Its sums would then be rounded floats instead of whole numbers.
    """
    for node in graph:
        first, second = node.inputs if node.op_type == "Mul" else (None, None)
        if second is not None and second.is_initializer() and name_of(second).endswith(".weight_scale"):
            node.replace_input_with(0, second)
            node.replace_input_with(1, first)


def drop_taps(model: ir.Model, outputs: int) -> None:
    """Keep the first ``outputs`` outputs and what they need, in place."""
    while len(model.graph.outputs) > outputs:
        model.graph.outputs.pop()  # del would leave values that call themselves outputs
    passes.RemoveUnusedNodesPass()(model)


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
        applied = [name_of(value).rpartition(".")[2] for value in node.inputs if name_of(value) in own]
        label = _LABELS.get(applied[0], applied[0]) if applied else label
    elif label == "Where" and [_scalar(value) for value in node.inputs[1:]] == [1.0, -1.0]:
        label = "sign"
    return f"{scope}/{label}" if scope else label


def name_of(value: ir.Value | None) -> str:
    """The name of a value, "" of an input that is left out."""
    return "" if value is None else value.name or ""


def constant_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    return None if value is None else ir.convenience.get_const_tensor(value)


def _scalar(value: ir.Value | None) -> float | None:
    tensor = constant_of(value)
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _name_constants(graph: ir.Graph, own: set[str], taken: Counter) -> None:
    """Scalars are called by their value, other constants after the first node that reads them.

    One that no node reads is an output, and is called that.
    """
    for value in list(graph.initializers.values()):
        if value.name not in own and value.uses():
            scalar = _scalar(value)
            reader = next(iter(value.uses())).node.name
            value.name = _unique(f"{reader}/constant" if scalar is None else f"{scalar:g}", taken)
