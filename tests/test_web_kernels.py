"""Our kernels in WebAssembly, called as the page of tools/export_web.py does, in Node.js against float operators."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from ort_models import OPERATORS, Net, around, expected, per_channel, run, session
from test_ort_ops import POOLS, SHAPES, problem

from tools.web.folder import DESCRIPTION, PAGE, WASM, write_network

ROOT = Path(__file__).parent.parent
RUN = ROOT / "tests" / "web" / "run.mjs"
NODE = shutil.which("node")
# kernel, strides, pads, whether padding counts; input
AVERAGES = [
    (((3, 3), (2, 2), (1, 1, 1, 1), 1), (2, 65, 8, 9)),
    (((2, 2), (2, 2), (0, 0, 0, 0), 0), (1, 64, 8, 6)),
    (((2, 3), (1, 3), (1, 0, 0, 2), 1), (1, 5, 7, 9)),
]
# A scale of the input is a second input, which the page leaves to onnxruntime-web.
KNOWN = [operator for operator in OPERATORS if "Scaled" not in operator]

needs_node = pytest.mark.skipif(not NODE, reason="no Node.js here")
pytestmark = pytest.mark.core


def cases():
    """Name -> (model, input, what it is to compute)."""
    found = {}
    for shape in SHAPES:
        for operator in KNOWN:
            conv, x, _ = problem(operator, shape)
            found[f"{operator}-{shape}".replace(" ", "_")] = around(operator, conv), x, expected(operator, conv, x)
    for i, (*window, ceil_mode, size) in enumerate(POOLS):
        generator = torch.Generator().manual_seed(i)
        x, turn = (torch.where(torch.rand(n, generator=generator) > 0.6, 1.0, -1.0) for n in (size, size[1]))
        names = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")
        attributes = dict(zip(names, (*window, ceil_mode), strict=True))
        net, standard = Net(size[1]), Net(size[1])
        bits = net.node("BinaryMaxPool", net.to_bits("x", size[1]), {"turn": turn}, attributes)
        standard.nodes.append(helper.make_node("MaxPool", ["x"], ["y"], **attributes))
        largest = run(session(standard.model("y"), kernels=False), x * per_channel(turn)) * per_channel(turn)
        found[f"BinaryMaxPool-{i}"] = net.model(net.from_bits(bits, size[1])), x, largest
    for i, (window, size) in enumerate(AVERAGES):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(size, generator=generator)
        names = ("kernel_shape", "strides", "pads", "count_include_pad")
        attributes = dict(zip(names, window, strict=True))
        net = Net(size[1])
        floats = net.from_bits(net.to_bits("x", size[1]), size[1])  # only what a node of ours gives is averaged
        net.nodes.append(helper.make_node("AveragePool", [floats], ["average"], **attributes))
        found[f"AveragePool-{i}"] = net.model("average"), x, run(session(net.model("average")), x)
    return found


CASES = cases()


def write(folder: Path, model: onnx.ModelProto, x: torch.Tensor) -> None:
    """A network all of whose nodes are ours, and images."""
    described = write_network(folder, model, with_kernels=True)
    assert len(described["stages"]) == len(model.graph.node)
    described |= {"input": "x", "output": model.graph.output[0].name, "input_size": x.shape[1:]}
    (folder / DESCRIPTION).write_text(json.dumps(described))
    x.numpy().tofile(folder / "input.bin")


def run_node(folder: Path) -> dict[str, str]:
    done = subprocess.run([NODE, RUN, folder], capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What Node.js says of each case: its line and its answers."""
    folder = tmp_path_factory.mktemp("networks")
    for name, (model, x, _) in CASES.items():
        write(folder / name, model, x)
    lines = run_node(folder)
    files = {name: folder / name / "output.bin" for name in CASES}
    return {
        name: (lines[name], np.fromfile(files[name], np.float32) if files[name].exists() else None) for name in CASES
    }


@needs_node
@pytest.mark.parametrize("name", CASES)
def test_a_node_computes_its_formula(name, answers):
    line, found = answers[name]
    assert line == "wasm"
    assert np.array_equal(found, CASES[name][2].numpy().ravel())


@needs_node
def test_what_a_kernel_refuses_is_an_error_and_no_number(tmp_path):
    conv, x, _ = problem("BinaryConv", "64")
    write(tmp_path / "net", around("BinaryConv", conv), x)
    (tmp_path / "net" / "bits.bin").write_bytes(b"")
    assert run_node(tmp_path) == {"net": "failed: the dense weights are 0 bytes; this shape needs 4608"}


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_the_module_is_made_of_today_s_sources():
    command = ["make", "--no-print-directory", "-s", "web-sources"]
    today = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept = (ROOT / "tools" / "web" / "kernels.sources").read_text()
    assert kept == today, "the kernels have changed; make the module of the page anew: make web-kernels"


def test_the_module_stays_small():
    assert (PAGE / WASM).stat().st_size < 200_000
