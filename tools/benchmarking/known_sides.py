"""The sides that the command line knows, by name. Ratios are those to the first."""

from .side import Side, build_ours, build_ours_on_bits, build_torch_float
from .sides import cuda_sides
from .sides.limit import LIMIT_SIDES
from .sides.network_sides import network_sides
from .sides.onnxruntime_sides import build_float, build_int8, expected_int8
from .sides.openvino_side import build_binary
from .sides.training_steps import TRAINING_SIDES

OURS = "xnorkit"
OURS_ON_BITS = "xnorkit_bits"

CONV_SIDES = {
    side.name: side
    for side in (
        Side(OURS, "xnorkit", build_ours),
        Side("ort_float", "onnxruntime float", build_float),
        Side("ort_int8", "onnxruntime u8 x s8", build_int8, expected_int8),
        Side("torch_float", "torch float", build_torch_float),
        Side("openvino_binary", "OpenVINO binary", build_binary),
        Side(OURS_ON_BITS, "xnorkit, bits in and int32 out", build_ours_on_bits),
        *LIMIT_SIDES,
    )
}

NETWORK_SIDES = {side.name: side for side in network_sides(OURS)}
CUDA_SIDES = {side.name: side for side in (*cuda_sides.CONV_SIDES, *cuda_sides.NETWORK_SIDES)}
ALL = {**CONV_SIDES, **NETWORK_SIDES, **TRAINING_SIDES, **CUDA_SIDES}
TITLES = {name: side.title for name, side in ALL.items()}

# What the command line compares where it is told no sides.
PEERS = ("ort_float", "ort_int8", "torch_float", "openvino_binary")
