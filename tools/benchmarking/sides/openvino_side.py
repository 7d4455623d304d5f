"""OpenVINO's BinaryConvolution, float in and float out."""

import numpy as np

from ..cases import Problem
from ..side import Built, optional_module

CONFIG = {
    "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False,
}  # fmt: skip


def _model(problem: Problem, words: np.ndarray, openvino, operations):
    case = problem.case
    x = operations.parameter(list(problem.x.shape), np.float32, name="x")
    # The bits are (0, 1): with (-1, 1), what x holds already, the numbers are silently wrong.
    threshold, low, high = (
        operations.constant(np.full((1, channels, 1, 1), value, np.float32))
        for channels, value in ((case.channels, 0), (1, 0), (1, 1))
    )
    bits = operations.fake_quantize(x, threshold, threshold, low, high, 2)
    shape = openvino.Shape(list(problem.weight.shape))
    weight = openvino.op.Constant(openvino.Tensor(words, shape, openvino.Type.u1))
    pads = [case.padding] * 2
    y = operations.binary_convolution(bits, weight, [1, 1], pads, pads, [1, 1], "xnor-popcount", 0.0)
    return openvino.Model([y], [x], "binary_convolution")


def build_binary(problem: Problem, threads: int) -> Built:
    openvino, operations = optional_module("openvino"), optional_module("openvino.opset1")
    # Least significant bit first. The model does not copy them: they must live until it is compiled.
    words = np.packbits(problem.weight.numpy().reshape(-1) > 0, bitorder="little")
    model = _model(problem, words, openvino, operations)
    compiled = openvino.Core().compile_model(model, "CPU", {**CONFIG, "INFERENCE_NUM_THREADS": threads})
    request, x = compiled.create_infer_request(), problem.x.numpy()
    # Its fastest call with new data: an array, which it checks less long than a list of them, and no copies.
    return Built(lambda: request.infer(x, share_inputs=True, share_outputs=True)[0])
