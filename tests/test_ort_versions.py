"""Files that were written when operators of domain "xnorkit" were new go on running, with the same answers.

`python tests/test_ort_versions.py` writes the files of the present version; they are never changed afterwards.
"""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from ort_build import CSRC
from ort_models import OPERATORS, Net, random_conv, session

from quantize.export.functions import VERSION, function
from quantize.kernels import cpu

OUTPUTS = {1: 17, 2: 18, 3: 19}  # of the file of a version
DATA = Path(__file__).parent / "data"
POOL = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0], "dilations": [1, 1], "ceil_mode": 1}

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]


def every_operator() -> onnx.ModelProto:
    """Each operator once, with its function body, side by side on the same input."""
    generator = torch.Generator().manual_seed(0)
    net, outputs = Net(12), []
    bits = net.to_bits("x", 12)
    for operator in OPERATORS:
        conv = random_conv(operator, (8, 6, 3, 3), generator, group=2, pads=(1, 1, 1, 1), strides=(2, 1), shuffle=4)
        y = net.conv(operator, bits if "FromBits" in operator else "x", conv)
        outputs.append(net.from_bits(y, 8) if "ToBits" in operator else y)
    turn = torch.where(torch.rand(12, generator=generator) > 0.5, 1.0, -1.0)
    outputs.append(net.from_bits(net.node("BinaryMaxPool", bits, {"turn": turn}, POOL | {"xnorkit_version": 1}), 12))
    outputs.append(net.from_bits(net.node("Int8ConvToBits", "x", *int8_conv(generator)), 8))
    outputs.append(net.from_bits(net.node("FloatConvToBits", "x", *float_conv(generator)), 8))
    model = net.model(outputs[0], [function(name) for name in sorted({node.op_type for node in net.nodes})])
    model.graph.output.extend(helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in outputs[1:])
    return model


def int8_conv(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, int | list[int]]]:
    """Tensors and attributes of a layer of 8 bits."""
    tensors = {
        "numbers": torch.randint(1, 256, (8, 12 * 9), generator=generator, dtype=torch.uint8),
        "scale": torch.rand(8, generator=generator) / 1000,
        "bias": torch.randn(8, generator=generator),
        "x_inverse": torch.tensor([8.0]),
        "x_zero": torch.tensor([100.0]),
        "output_threshold": torch.randn(8, generator=generator),
        "output_turn": torch.where(torch.rand(8, generator=generator) > 0.5, 1.0, -1.0),
    }
    window = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "group": 1}
    return tensors, window | {"filter_shape": [8, 3, 3, 12], "xnorkit_version": 2}


def float_conv(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, int | list[int]]]:
    """Tensors and attributes of a layer of floats that are whole numbers."""
    tensors = {
        "weight": torch.randint(-9, 10, (8, 12, 3, 2), generator=generator).float(),
        "bias": torch.randn(8, generator=generator),
        "output_threshold": torch.randn(8, generator=generator),
        "output_turn": torch.where(torch.rand(8, generator=generator) > 0.5, 1.0, -1.0),
    }
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 1], "group": 1}
    return tensors, window | {"xnorkit_version": 3}


def inputs() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "x": generator.integers(-3, 4, (2, 12, 6, 7)).astype(np.float32),
        "input_scale": generator.random((2, 2, 3, 7), dtype=np.float32),
    }


@pytest.mark.parametrize("version", range(1, VERSION + 1))
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "bodies"])
def test_a_file_of_every_version_runs(version, kernels):
    model = onnx.load(DATA / f"operators_{version}.onnx")
    assert {node.op_type for node in model.graph.node} >= {*OPERATORS, "BinaryMaxPool"}
    with np.load(DATA / f"operators_{version}.npz") as expected:
        outputs = session(model, kernels=kernels).run(None, inputs())
        assert len(outputs) == len(expected.files) == OUTPUTS[version]
        for output, name in zip(outputs, expected.files, strict=True):
            np.testing.assert_allclose(output, expected[name], rtol=0, atol=1e-5)


def test_library_and_exporter_have_one_version():
    source = (CSRC / "ort/operators.cc").read_text(encoding="utf-8")
    assert re.findall(r"kVersion = (\d+);", source) == [str(VERSION)]


if __name__ == "__main__":
    file = every_operator()
    onnx.save(file, DATA / f"operators_{VERSION}.onnx")
    results = session(file, kernels=False).run(None, inputs())
    np.savez_compressed(DATA / f"operators_{VERSION}.npz", *results)
