"""onnxruntime's convolutions, float in and float out: one Conv, and one QLinearConv between quantizers."""

import numpy as np
from torch import Tensor

from ..cases import Problem
from ..side import Built, Unavailable, optional_module

# QLinearConv returns 8 bits: sums in steps of this, up to 508, seven standard deviations of 4,608 random signs.
INT8_STEP = 4.0


def build_float(problem: Problem, threads: int) -> Built:
    from onnx import helper, numpy_helper

    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[problem.case.padding] * 4)
    return _session(problem, [conv], [numpy_helper.from_array(problem.weight.numpy(), "w")], threads)


def build_int8(problem: Problem, threads: int) -> Built:
    """u8 activations by s8 weights: onnxruntime's fast pair (s8 x s8 and u8 x u8 are not)."""
    from onnx import helper, numpy_helper

    constants = {
        "one": np.float32(1), "step": np.float32(INT8_STEP), "middle": np.uint8(128), "zero": np.int8(0),
        "w": problem.weight.numpy().astype(np.int8),
    }  # fmt: skip
    inputs = ["xq", "one", "middle", "w", "one", "zero", "step", "middle"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "middle"], ["xq"]),
        helper.make_node("QLinearConv", inputs, ["yq"], pads=[problem.case.padding] * 4),
        helper.make_node("DequantizeLinear", ["yq", "step", "middle"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return _session(problem, nodes, weights, threads)


def expected_int8(problem: Problem) -> Tensor:
    """The sums rounded to 8 bits: half to even, saturated."""
    return (problem.expected / INT8_STEP).round().clamp(-128, 127) * INT8_STEP


def session(model: bytes, threads: int):
    """An onnxruntime session on ``threads`` threads; Unavailable where onnxruntime is not installed."""
    runtime = optional_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except runtime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        raise Unavailable(str(error).splitlines()[0]) from None


def _session(problem: Problem, nodes: list, weights: list, threads: int) -> Built:
    from onnx import TensorProto, helper

    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.shape))
        for name, tensor in (("x", problem.x), ("y", problem.expected))
    ]
    graph = helper.make_graph(nodes, "conv", infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    s, feed = session(model.SerializeToString(), threads), {"x": problem.x.numpy()}
    return Built(lambda: s.run(None, feed)[0])
