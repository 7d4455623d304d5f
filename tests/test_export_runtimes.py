"""What other runtimes than the installed onnxruntime compute right; `make test-runtimes` runs them."""

import onnx
import pytest
from converted_models import Blocks
from exported_models import K, behind_a_convolution, prepared_layers
from onnx import TensorProto, inliner
from ort_models import OPERATORS
from runtimes.check import TOLERANCE, difference
from runtimes.write import FORMATS, write
from torch import nn

import quantize
from quantize.export.functions import function, level_name

NUMBERS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64}
# Types that onnxruntime 1.18 computes with, of the operators that a converted layer becomes.
TYPES = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "GreaterOrEqual", "LessOrEqual", "ReduceSum", "Range"), NUMBERS),
    "BitShift": {TensorProto.UINT8, TensorProto.UINT32, TensorProto.UINT64},
    "QLinearConv": {TensorProto.UINT8},
}
MODELS = {
    "pool": lambda: behind_a_convolution(lambda: Blocks(nn.ReLU(), nn.MaxPool2d(2)), 3)[::2],
    "shuffles": lambda: behind_a_convolution(
        lambda: [nn.ReLU(), nn.ChannelShuffle(4), nn.Conv2d(32, 32, 1, groups=2), nn.ChannelShuffle(2)], 3
    )[::2],
    "scale of the input": lambda: prepared_layers(lambda: nn.Conv2d(64, 32, 3, padding=1), K, (4, 64, 7, 6)),
    "linear": lambda: prepared_layers(lambda: nn.Linear(100, 12), "xnor", (4, 100)),
    "weights": lambda: prepared_layers(lambda: nn.Conv2d(9, 33, 3), "ternary", (4, 9, 7, 6)),
    "levels": lambda: prepared_layers(lambda: nn.Conv2d(9, 33, 3), "dorefa:w_bits=2,a_bits=2", (4, 9, 7, 6)),
    "levels up": lambda: prepared_layers(lambda: nn.ConvTranspose2d(9, 5, 4, 2), "xnor", (4, 9, 7, 6)),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_old_versions_have_the_operators(name, format, tmp_path):
    prepared, x = MODELS[name]()
    quantize.export_onnx(prepared, tmp_path / "net.onnx", x, format=format)
    model = inliner.inline_local_functions(onnx.load(tmp_path / "net.onnx"))
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    checked = [node for node in graph.node if node.op_type in TYPES]
    assert checked
    for node in checked:
        assert types[node.input[0]] in TYPES[node.op_type], f"{node.op_type} of type {types[node.input[0]]}"


LEVELS = [level_name(operation, signs) for operation in ("Conv", "ConvTranspose", "Linear") for signs in (True, False)]


@pytest.mark.parametrize("name", [*OPERATORS, *LEVELS, "BinaryMaxPool", "BinaryWeight", "SignMatMul"])
def test_bodies_leave_nothing_that_1_21_rounds(name):
    """It rounds the weights of an operator behind a DequantizeLinear to 8 bits."""
    assert "DequantizeLinear" not in {node.op_type for node in function(name).node}


def test_what_other_runtimes_are_given(tmp_path):
    """Files with PyTorch's answers beside them, which do not depend on a rounding."""
    write(tmp_path, ["linear"], ["packed"])
    (file,) = tmp_path.glob("*.onnx")
    assert difference(file) <= TOLERANCE / 10
    assert onnx.load(file).functions
    other = tmp_path / "linear_packed.output.npy"
    other.write_bytes((tmp_path / "linear_packed.input.npy").read_bytes())
    with pytest.raises(ValueError, match="broadcast"):
        difference(file)
