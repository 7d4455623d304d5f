"""An ONNX file whose operators are all of the standard, and computed already where they depend on no input.

A packed file unpacks its weights each time it is loaded, which takes onnxruntime-web seconds; here that is done once.
"""

import onnx
import onnx.inliner
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper


def inlined(model: ModelProto, kept: frozenset[str] = frozenset()) -> ModelProto:
    """``model`` with the bodies of its functions in place of their calls, but for those of the names ``kept``."""
    others = [(function.domain, function.name) for function in model.functions if function.name not in kept]
    return onnx.inliner.inline_selected_functions(model, others) if others else model


def folded(model: ModelProto) -> ModelProto:
    """``model`` with initializers in place of all that depends on no input."""
    constant = {tensor.name for tensor in model.graph.initializer} | {""}
    given, computed, rest = set(constant), [], []
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and constant.issuperset(node.input) and not _depends_on_more(node):
            computed.append(node)
            constant.update(node.output)
        else:
            rest.append(node)
    used = {name for node in rest for name in node.input} | {value.name for value in model.graph.output}
    values = _values(model, computed, sorted((constant - given) & used)) if computed else []
    result = ModelProto()
    result.CopyFrom(model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    _replace(result.graph, rest, [*kept, *values])
    return result


def _depends_on_more(node: NodeProto) -> bool:
    """Whether a node's outputs may not follow from its inputs alone: those of a subgraph, or drawn at random."""
    subgraph = any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute)
    return subgraph or node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def _values(model: ModelProto, nodes: list[NodeProto], wanted: list[str]) -> list[TensorProto]:
    """What ``nodes`` compute, by onnxruntime as it stands there, without an optimization."""
    needed = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = helper.make_graph(nodes, "constants", [], outputs, tensors)
    imports = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    constants = helper.make_model(graph, ir_version=model.ir_version, opset_imports=imports)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(constants.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(wanted, {})
    return [numpy_helper.from_array(value, name) for value, name in zip(found, wanted, strict=True)]


def _replace(graph: GraphProto, nodes: list[NodeProto], tensors: list[TensorProto]) -> None:
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
