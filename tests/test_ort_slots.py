"""quantize/csrc/ort/c_api.h, which declares a part of onnxruntime's C API, against onnxruntime itself."""

import re

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from ort_build import CSRC, ROOT, build, headers

SOURCES = ROOT / "tests" / "native" / "ort"
SLOTS = re.findall(r"(?:SLOT|RELEASE)\((\d+), (\d+), (\w+)", (CSRC / "ort/c_api.h").read_text(encoding="utf-8"))


def test_the_table_is_read():
    assert len(SLOTS) == len({index for index, _, _ in SLOTS}) == len({name for _, _, name in SLOTS}) == 19


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    library = tmp_path_factory.mktemp("probe") / "libprobe.so"
    build("-shared", "-fPIC", SOURCES / "slots.cc", "-o", library)
    node = helper.make_node("Probe", ["x", "w"], ["y"], "probe", domain="probe", one=1, many=[4, 5, 6])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weights = [numpy_helper.from_array(np.array([7, 8], dtype=np.uint8), "w")]
    graph = helper.make_graph([node], "net", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("probe", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", [name for _, _, name in SLOTS])
def test_every_slot_does_its_work_in_the_installed_onnxruntime(probe, name):
    verdicts = probe.run(None, {"x": np.zeros((2, 3), dtype=np.float32)})[0]
    assert dict(zip([name for _, _, name in SLOTS], verdicts, strict=True))[name] == 1


def test_a_status_brings_its_message(probe):
    with pytest.raises(Exception, match="INVALID_ARGUMENT.*the probe fails where x starts with -1"):
        probe.run(None, {"x": -np.ones((2, 3), dtype=np.float32)})


def test_the_public_header_has_the_same_slots():
    build("-fsyntax-only", f"-I{headers()}", SOURCES / "header.cc")
