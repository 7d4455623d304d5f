"""tools/export_web.py: its exit codes, the folder that it writes, and the stages that networks are cut into."""

import hashlib
import json
import os
import shutil
import tarfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from ort_models import Net, around, run, session
from shipped_files import prepared
from test_ort_ops import problem
from torch import nn

import models
import quantize
from tools import export_web
from tools.web import runtime, stages
from tools.web.standard import folded, inlined

pytestmark = pytest.mark.core


@pytest.fixture
def package(tmp_path):
    """A folder with the names of onnxruntime-web's files."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    for name in runtime.FILES:
        (folder / "dist" / name).write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A packed file without metadata."""
    file = tmp_path_factory.mktemp("exported") / "net.onnx"
    net = nn.Sequential(nn.Conv2d(3, 4, 3), quantize.BinaryConv2d(4, 2, 6), nn.Flatten()).eval()
    quantize.export_onnx(net, file, torch.randn(2, 3, 8, 8))
    return file


def test_a_network_that_comes_with_the_package(package, tmp_path, capsys):
    out = tmp_path / "deep" / "page"
    arguments = ["lenet5_xnornet", str(out), "--pretrained", "mnist", "--runtime", str(package)]
    assert export_web.main(arguments) == 0
    assert "our kernels compute 2 of its nodes" in capsys.readouterr().out
    about = json.loads((out / "network" / "network.json").read_text())
    entry = models.get_pretrained("lenet5_xnornet", "mnist")
    assert (about["name"], about["input_size"], about["classes"]) == ("lenet5_xnornet", [1, 28, 28], entry.classes)
    assert (about["mean"], about["std"]) == ([*entry.mean], [*entry.std])
    assert about["file_bytes"] == entry.onnx_path.stat().st_size
    assert about["float_bytes"] == pytest.approx(1_724_880, rel=0.01)  # of READMEs/zoo.md
    for name in runtime.FILES:
        assert (out / "onnxruntime" / name).read_bytes() == name.encode()
    assert {"index.html", "page.mjs", "kernels.wasm"} < {path.name for path in out.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["page"]
    (out / "left over").touch()
    assert export_web.main(arguments) == 0  # a page of ours is replaced
    assert not (out / "left over").exists()
    assert [path.name for path in out.parent.iterdir()] == ["page"]


@pytest.mark.parametrize(
    ("flags", "mean", "std"),
    [
        (["--normalize", "half"], [0.5] * 3, [0.5] * 3),
        (["--mean", "0.1", "0.2", "0.3", "--std", "0.5"], [0.1, 0.2, 0.3], [0.5] * 3),
    ],
)
def test_a_file_that_does_not_say_how_its_images_are(exported, package, tmp_path, flags, mean, std):
    out = tmp_path / "page"
    assert export_web.main([str(exported), str(out), "--runtime", str(package), *flags]) == 0
    about = json.loads((out / "network" / "network.json").read_text())
    assert (about["name"], about["mean"], about["std"], about["classes"]) == ("net", mean, std, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx", "page"], "no file 'none.onnx'"),
        (
            ["lenet5_xnornet", "page"],
            "no file 'lenet5_xnornet'; of the network that comes with the package: --pretrained",
        ),
        (["lenet5_xnornet", "page", "--pretrained", "cifar10"], "there are those for 'mnist'"),
        (["net.pt", "page"], "'net.pt' is no ONNX file; write one with tools/export_onnx.py"),
        (["bad.onnx", "page"], "bad.onnx"),
        (["NET", "page"], "does not say how its images are normalized; give --normalize, one of none, half"),
        (["NET", "page", "--normalize", "mnst"], "unknown normalization 'mnst'"),
        (["NET", "page", "--mean", "0.5"], "must be given together"),
        (["NET", "net.pt", "--normalize", "half"], "'net.pt' is a file; name a folder"),
        (["NET", ".", "--normalize", "half"], "is a folder with other files"),
        (["NET", "page", "--normalize", "half", "--runtime", "no"], "--runtime 'no' has no ort.wasm.bundle.min.mjs"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(
    arguments, message, exported, package, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("net.pt", "bad.onnx"):
        (folder / name).write_text("no network")
    arguments = [str(exported) if argument == "NET" else argument for argument in arguments]
    arguments += [] if "--runtime" in arguments else ["--runtime", str(package)]
    assert export_web.main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["bad.onnx", "net.pt"]


def test_what_fails_while_it_is_written_leaves_nothing(exported, package, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("tools.web.folder.write_network", full)
    out = tmp_path / "out"
    out.mkdir()
    flags = ["--normalize", "half", "--runtime", str(package)]
    assert export_web.main([str(exported), str(out / "page"), *flags]) == 2
    assert capsys.readouterr().err == "export_web: error: no space left\n"
    assert not list(out.iterdir())


def npm(folder, script: str) -> None:
    """A program of that name."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty cache, and a PATH that begins with a folder which is not there yet."""
    monkeypatch.setenv("XNORKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin")
    return tmp_path / "bin"


def packed_by_npm(folder, monkeypatch) -> dict[str, bytes]:
    """Puts an archive of small files where the next npm takes it, and makes them the right ones."""
    contents = {name: name.encode() * 3 for name in runtime.FILES}
    (folder / "package" / "dist").mkdir(parents=True)
    for name, data in contents.items():
        (folder / "package" / "dist" / name).write_bytes(data)
    with tarfile.open(folder / "kept.tgz", "w:gz") as archive:
        archive.add(folder / "package", "package")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(runtime, "FILES", hashes)
    return contents


def test_npm_is_asked_once(alone, tmp_path, monkeypatch):
    contents = packed_by_npm(tmp_path, monkeypatch)
    npm(alone, f'echo "$@" >> {tmp_path}/asked; cp {tmp_path}/kept.tgz onnxruntime-web.tgz')
    assert runtime.runtime_files() == contents
    assert runtime.runtime_files() == contents
    assert (tmp_path / "asked").read_text() == f"pack --silent onnxruntime-web@{runtime.VERSION}\n"
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} == set(contents)


def test_another_file_than_the_known_one_is_refused(alone, tmp_path, monkeypatch):
    packed_by_npm(tmp_path, monkeypatch)
    monkeypatch.setattr(runtime, "FILES", dict.fromkeys(runtime.FILES, "0" * 64))
    npm(alone, f"cp {tmp_path}/kept.tgz onnxruntime-web.tgz")
    with pytest.raises(OSError, match="is not the file that it was: try again, or name the folder"):
        runtime.runtime_files()
    assert not (tmp_path / "cache").exists()


def test_npm_that_fails_is_quoted(alone):
    npm(alone, "echo 'npm error network' >&2; exit 1")
    with pytest.raises(
        OSError, match=r"npm could not fetch onnxruntime-web@[\d.]+ \(npm error network\): try again, or"
    ):
        runtime.runtime_files()


def test_without_npm(alone, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        OSError, match=r"npm, .* is not installed: install Node.js, or name the folder .* --runtime DIR"
    ):
        runtime.runtime_files()


# Networks in stages.


def test_constants_are_computed_once():
    packed = onnx.load(models.get_pretrained("lenet5_xnornet", "mnist").onnx_path)
    standard = folded(inlined(packed))
    operators = {node.op_type for node in standard.graph.node}
    assert "Conv" in operators
    assert not operators & {"BitShift", "Constant", "Slice", "BinaryConvRelu"}
    assert not standard.functions
    images = torch.randn(8, 1, 28, 28)
    assert torch.equal(run(session(standard, kernels=False), images), run(session(packed, kernels=False), images))


def test_what_draws_numbers_is_no_constant():
    random = helper.make_node("RandomNormal", [], ["noise"], shape=[1])
    add = helper.make_node("Add", ["x", "noise"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([random, add], "net", values[:1], values[1:])
    assert len(folded(helper.make_model(graph)).graph.node) == 2


def operators(found) -> list[list[str]]:
    return [
        [node.op_type for node in stage.model.graph.node] if isinstance(stage, stages.Part) else [stage.facts["op"]]
        for stage in found
    ]


def branching() -> onnx.ModelProto:
    """Two branches, each a node of ours after one of the standard, and their sum; one node's output has two readers."""
    net = Net(64)
    conv, _, _ = problem("BinaryConv", "64")
    relu = helper.make_node("Relu", ["x"], ["relu"])
    net.nodes.append(relu)
    left = net.conv("BinaryConv", "relu", conv)
    net.nodes.append(helper.make_node("Neg", ["x"], ["neg"]))
    right = net.conv("BinaryConv", "neg", conv)
    net.nodes.append(helper.make_node("Add", [left, right], ["sum"]))
    net.nodes.append(helper.make_node("Mul", ["sum", "relu"], ["y"]))
    return net.model("y")


def test_nodes_of_one_kind_come_together():
    found = stages.split(branching())
    assert operators(found) == [["Relu", "Neg"], ["conv"], ["conv"], ["Add", "Mul"]]
    first, last = found[0], found[-1]
    assert (first.inputs, first.outputs) == (["x"], ["neg", "relu"])
    assert (last.inputs, last.outputs) == (["node1.y", "node3.y", "relu"], ["y"])


def test_a_part_computes_what_its_nodes_did():
    model = branching()
    first = stages.split(model)[0]
    x = torch.randn(1, 64, 7, 9)
    one = onnxruntime.InferenceSession(first.model.SerializeToString(), providers=["CPUExecutionProvider"])
    neg, relu = one.run(first.outputs, {"x": x.numpy()})
    assert np.array_equal(neg, -x.numpy())
    assert np.array_equal(relu, x.relu().numpy())


def test_a_network_without_nodes_of_ours_has_no_stages():
    net = Net(4)
    net.nodes.append(helper.make_node("Relu", ["x"], ["y"]))
    assert stages.split(net.model("y")) is None


@pytest.mark.parametrize(
    ("attributes", "ours"),
    [
        ({"pads": [1] * 4, "count_include_pad": 1}, True),
        ({}, True),
        ({"pads": [1] * 4}, False),
        ({"ceil_mode": 1}, False),
        ({"dilations": [2, 2]}, False),
        ({"auto_pad": "SAME_UPPER", "count_include_pad": 1}, False),
    ],
)
def test_averages_of_what_our_nodes_give(attributes, ours):
    conv, _, _ = problem("BinaryConv", "64")
    net = Net(64)
    y = net.conv("BinaryConv", "x", conv)
    net.nodes.append(helper.make_node("AveragePool", [y], ["average"], kernel_shape=[2, 2], **attributes))
    net.nodes.append(helper.make_node("AveragePool", ["x"], ["other"], kernel_shape=[2, 2]))  # not ours
    net.nodes.append(helper.make_node("Add", ["average", "other"], ["y"]))
    middle = [["conv"], ["average"], ["Add"]] if ours else [["conv"], ["AveragePool", "Add"]]
    assert operators(stages.split(net.model("y"))) == [["AveragePool"], *middle]


@pytest.mark.parametrize("operator", ["BinaryConvToBits", "BinaryConvToBitsShuffle"])
def test_bits_that_others_read_are_left_to_onnxruntime(operator):
    conv, _, _ = problem(operator, "64")
    net = Net(64)
    net.nodes.append(helper.make_node("Identity", [net.conv(operator, "x", conv)], ["y"]))
    assert stages.split(net.model("y")) is None
    net.nodes.pop()
    assert stages.split(net.model(net.nodes[-1].output[0])) is None  # an output of the network


def test_bits_that_others_write_are_left_to_onnxruntime(tmp_path):
    """Those of a layer of 8 bits, which the page has no kernel for."""
    x = torch.randn(4, 3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), quantize.BinaryConv2d(4, 2, 6), nn.Flatten()).eval()
    quantize.export_onnx(net, tmp_path / "net.onnx", x, float_layers="int8", calibration=x, max_drop=100)
    model = onnx.load(tmp_path / "net.onnx")
    assert [node.op_type for node in model.graph.node][:2] == ["Int8ConvToBits", "BinaryConvFromBits"]
    assert stages.split(model) is None


@pytest.fixture
def first_bits(tmp_path):
    """A file whose first convolution hands on bits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 40, 3), quantize.BinaryConv2d(40, 8, 3), nn.Flatten()).eval()
    quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(4, 3, 8, 8))
    model = onnx.load(tmp_path / "net.onnx")
    assert [node.op_type for node in model.graph.node][:2] == ["FloatConvToBits", "BinaryConvFromBits"]
    return model


def test_bits_of_a_convolution_of_floats_are_floats_of_the_page(first_bits):
    first, kernel, last = stages.split(first_bits)
    assert operators([first, kernel, last]) == [["Conv"], ["conv"], ["Reshape"]]
    assert not kernel.facts["from_bits"]
    x = torch.randn(5, 3, 8, 8)
    floats = run(session(first.model, kernels=False), x)
    conv, flips = kernel.tensors, torch.from_numpy(kernel.tensors["flip"]).bool().view(1, -1, 1, 1)
    threshold = torch.from_numpy(conv["threshold"]).view(1, -1, 1, 1)
    signs = torch.where(torch.where(flips, floats <= threshold, floats >= threshold), 1.0, -1.0)
    weights = torch.from_numpy(conv["weights"].copy())
    sums = nn.functional.conv2d(signs, quantize.packing.unpack_weights(weights, (8, 40, 3, 3)))
    scale, bias = (torch.from_numpy(conv[name].copy()).view(1, -1, 1, 1) for name in ("scale", "bias"))
    y = sums * scale + bias
    torch.testing.assert_close(y.flatten(1), run(session(first_bits, kernels=False), x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("reader", ["another node", "nobody", "a pool"])
def test_bits_of_a_convolution_of_floats_that_others_read_stay_bits(first_bits, reader):
    nodes = first_bits.graph.node
    if reader == "another node":
        nodes.append(helper.make_node("Identity", [nodes[0].output[0]], ["more"]))
    elif reader == "nobody":
        first_bits.graph.output.append(helper.make_tensor_value_info(nodes[0].output[0], TensorProto.FLOAT, None))
    else:
        nodes.append(helper.make_node("BinaryMaxPool", [nodes[0].output[0], "turn"], ["more"], domain="xnorkit"))
    assert stages.split(first_bits) is None


def test_comparisons_are_those_of_the_kernels():
    conv, _, _ = problem("BinaryConvToBits", "64")
    (first, _) = stages.split(around("BinaryConvToBits", conv))
    for threshold, turn, kept in (("threshold", "turn", "flip"), ("output_threshold", "output_turn", "output_flip")):
        turns = conv.inputs[turn].numpy()
        assert np.array_equal(first.tensors[kept], turns < 0)
        assert np.array_equal(first.tensors[threshold], conv.inputs[threshold].numpy() * turns)


def test_a_later_version_of_the_operators_is_refused():
    conv, _, _ = problem("BinaryConv", "64")
    model = around("BinaryConv", conv)
    next(entry for entry in model.graph.node[0].attribute if entry.name == "xnorkit_version").i = 9
    with pytest.raises(ValueError, match="needs version 9 of xnorkit's operators"):
        stages.split(model)


def test_codes_of_several_bits_are_unpacked(tmp_path):
    x = torch.randn(2, 1, 28, 28)
    net, _ = prepared("lenet5_xnornet", x, "ternary")
    quantize.export_onnx(net.eval(), tmp_path / "net.onnx", x)
    model = onnx.load(tmp_path / "net.onnx")
    assert "BinaryWeight" in {node.op_type for node in model.graph.node}
    assert stages.split(model) is None
    assert "BinaryWeight" not in {node.op_type for node in folded(inlined(model)).graph.node}
