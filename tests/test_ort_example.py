"""The C++ example: compiled against onnxruntime's public headers, it classifies as Python does."""

import json
import os
import shutil
import subprocess

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from ort_build import ROOT, compiler, headers, shared_object
from ort_models import Net, expected, random_conv

import quantize
from quantize.kernels import cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")

CLASSES = ["bird", "cat", "dog", "frog", "horse"]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not shutil.which("make"):
        pytest.skip("no make")
    directory = tmp_path_factory.mktemp("example")
    variables = {"CXX": compiler(), "ONNXRUNTIME_INCLUDE": headers(), "ONNXRUNTIME_LIB": shared_object()}
    command = ["make", "-C", ROOT / "tools" / "ort_example", f"BUILD={directory}"]
    command += [f"{name}={value}" for name, value in variables.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory / "classify"


def write_image(path, pixels: np.ndarray) -> None:
    height, width, channels = pixels.shape
    header = f"P{6 if channels == 3 else 5}\n# a comment\n{width} {height}\n255\n"
    path.write_bytes(header.encode() + pixels.tobytes())


def case(directory, channels: int):
    """A model of one node without a function body, an image, and the logits."""
    generator = torch.Generator().manual_seed(channels)
    conv = random_conv("BinaryConv", (len(CLASSES), channels, 3, 3), generator)
    conv.inputs["threshold"] = torch.randn(channels, generator=generator) / 4
    net = Net(channels)
    net.nodes.append(helper.make_node("GlobalAveragePool", [net.conv("BinaryConv", "x", conv)], ["mean"]))
    net.nodes.append(helper.make_node("Flatten", ["mean"], ["logits"]))
    model = net.model("logits")
    mean, std = [0.5, 0.4, 0.3][:channels], [0.2, 0.25, 0.3][:channels]
    facts = {"classes": CLASSES, "input_size": [channels, 10, 12], "input_normalization": {"mean": mean, "std": std}}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
    onnx.save(model, directory / "net.onnx")
    pixels = torch.randint(0, 256, (10, 12, channels), generator=generator, dtype=torch.uint8)
    write_image(directory / "image.ppm", pixels.numpy())
    x = (pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return expected("BinaryConv", conv, x.permute(2, 0, 1)[None]).mean((2, 3))[0]


def run(program, directory, *library: str) -> subprocess.CompletedProcess:
    command = [program, directory / "net.onnx", directory / "image.ppm", *library]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("channels", [1, 3])
def test_it_prints_the_class(program, tmp_path, channels):
    logits = case(tmp_path, channels)
    done = run(program, tmp_path, quantize.custom_ops_library())
    assert done.returncode == 0, done.stderr
    name, percent = done.stdout.split()
    assert name == CLASSES[logits.argmax()]
    assert float(percent.rstrip("%")) == pytest.approx(100 * float(logits.softmax(0).max()), abs=0.06)


def test_what_is_wrong_is_said(program, tmp_path):
    case(tmp_path, 3)
    library = quantize.custom_ops_library()
    alone = run(program, tmp_path)  # the file has no function body: without the library nothing can run it
    assert (alone.returncode, "BinaryConv" in alone.stderr) == (1, True)
    write_image(tmp_path / "image.ppm", np.zeros((10, 11, 3), dtype=np.uint8))
    assert "not of the model's input_size [3, 10, 12]" in run(program, tmp_path, library).stderr
    (tmp_path / "image.ppm").write_bytes(b"P6 12 10 255\nshort")
    assert "ends in the middle of its pixels" in run(program, tmp_path, library).stderr
    (tmp_path / "image.ppm").write_bytes(b"GIF89a")
    assert "not a binary PGM or PPM image" in run(program, tmp_path, library).stderr
    assert "usage:" in subprocess.run([program], capture_output=True, text=True, check=False).stderr
