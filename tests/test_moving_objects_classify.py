"""Classifiers of each kind, on pictures whose answer is known."""

import json
from urllib.error import URLError

import numpy as np
import onnx
import pytest
import torch
import zoo_samples
from onnx import TensorProto, helper
from shipped_files import prepared, write_checkpoint

pytest.importorskip("cv2")

import models
from quantize.kernels import cpu
from tools import convert
from tools.moving_objects import classify_speed
from tools.moving_objects.classify import CLASSES, load_classifier
from tools.moving_objects.regions import Box
from training.checkpoint import save_checkpoint

BOXES = [Box(0, 0, 20, 30), Box(20, 0, 60, 30), Box(60, 0, 64, 30)]
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)


@pytest.fixture
def picture():
    """Three regions: red, green, blue."""
    image = np.zeros((30, 64, 3), np.uint8)
    for (x1, y1, x2, y2), channel in zip(BOXES, (2, 1, 0), strict=True):
        image[y1:y2, x1:x2, channel] = 255
    return image


def write_mean_colour(path, shape=("N", 3, 8, 8), outputs=3, **metadata):
    """An ONNX network whose outputs are the mean of each input channel."""
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("Tile", ["mean", "repeats"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean_colour",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("N", outputs))],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3]),
            helper.make_tensor("repeats", TensorProto.INT64, [2], [1, 1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return str(path)


def test_onnx_file_with_metadata(tmp_path, picture):
    path = write_mean_colour(
        tmp_path / "net.onnx",
        classes=["red", "green", "blue"],
        input_size=[3, 8, 8],
        input_normalization={"mean": MEAN, "std": STD},
    )
    labels = load_classifier(path, threads=1)(picture, BOXES)
    assert [label.name for label in labels] == ["red", "green", "blue"]
    for index, label in enumerate(labels):
        logits = (np.eye(3)[index] - MEAN) / STD
        assert label.score == pytest.approx(np.exp(logits[index]) / np.exp(logits).sum(), rel=1e-5)


def test_onnx_file_without_metadata_takes_a_known_set(tmp_path, picture):
    path = write_mean_colour(tmp_path / "net.onnx", shape=("N", 3, 8, 8), outputs=10)
    classifier = load_classifier(path, "cifar10")
    assert classifier.classes == list(CLASSES["cifar10"])
    assert classifier.preparation.mean == pytest.approx((0.4914, 0.4822, 0.4465))
    with pytest.raises(ValueError, match="has no classes and input_normalization.*--dataset-classes"):
        load_classifier(path)


def test_onnx_file_of_unknown_input_size(tmp_path):
    path = write_mean_colour(tmp_path / "net.onnx", shape=("N", 3, "height", "width"))
    with pytest.raises(ValueError, match="a known size is needed"):
        load_classifier(path, "cifar10")


def test_all_boxes_go_in_one_batch(tmp_path, picture):
    classifier = load_classifier(write_mean_colour(tmp_path / "net.onnx"), "cifar10")
    sizes = []
    classifier.run = lambda batch: sizes.append(batch.shape) or np.zeros((len(batch), 10), np.float32)
    assert len(classifier(picture, BOXES)) == 3
    assert classifier(picture, []) == []
    assert sizes == [(3, 3, 8, 8)]


@pytest.fixture
def checkpoint(tmp_path):
    """A grey LeNet-5 with random weights."""
    model = models.create_model("lenet5", num_classes=10, in_chans=1).eval()
    contents = {
        "arch": "lenet5",
        "scheme": None,
        "plan": None,
        "model": model.state_dict(),
        "classes": list("abcdefghij"),
        "input_size": (1, 28, 28),
        "normalization": {"mean": (0.1307,), "std": (0.3081,)},
        "config": {},
        "epoch": 1,
        "acc1": 10.0,
        "versions": {},
    }
    save_checkpoint(tmp_path / "best.pt", contents)
    return model, str(tmp_path / "best.pt")


def test_checkpoint_sees_the_region_in_grey(checkpoint, picture):
    model, path = checkpoint
    (label,) = load_classifier(path)(picture, [Box(20, 0, 60, 30)])
    green = torch.full((1, 1, 28, 28), (round(0.587 * 255) / 255 - 0.1307) / 0.3081)
    with torch.inference_mode():
        probabilities = model(green).softmax(1)[0]
    assert label.name == "abcdefghij"[int(probabilities.argmax())]
    assert label.score == pytest.approx(float(probabilities.max()), rel=1e-4)


def test_binary_layers_of_a_checkpoint_compute_with_bits(tmp_path, picture, monkeypatch):
    model, plan = prepared("lenet5_xnornet", torch.randn(8, 1, 28, 28))
    path = write_checkpoint(tmp_path / "best.pt", "lenet5_xnornet", model, plan, (1, 28, 28), "mnist")
    assert convert.main([str(path)]) == 0
    calls, compute = [], cpu.conv2d_float
    monkeypatch.setattr(cpu, "conv2d_float", lambda *args: calls.append(args) or compute(*args))
    for name in ("best.pt", "packed.pt"):
        classifier = load_classifier(str(tmp_path / name))
        calls.clear()
        labels = classifier(picture, BOXES)
        assert len(calls) == 2
        batch = torch.from_numpy(classifier.preparation.batch(picture, BOXES))
        with torch.inference_mode():
            probabilities = model.eval()(batch).softmax(1)
        assert [label.name for label in labels] == [str(i) for i in probabilities.argmax(1).tolist()]
        assert [label.score for label in labels] == pytest.approx(probabilities.amax(1).tolist(), rel=1e-4)


def test_known_classes_replace_those_of_a_checkpoint(checkpoint):
    assert load_classifier(checkpoint[1], "mnist").classes == list("0123456789")


def test_torchvision_network_from_its_cache(tmp_path, monkeypatch, picture):
    from torchvision import models as torchvision_models

    weights = torchvision_models.SqueezeNet1_1_Weights.DEFAULT
    model = torchvision_models.squeezenet1_1().eval()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "hub/checkpoints" / weights.url.rpartition("/")[2])
    (label,) = load_classifier("torchvision:squeezenet1_1")(picture, BOXES[:1])
    red = (torch.tensor([1.0, 0, 0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        probabilities = model(red.view(1, 3, 1, 1).expand(-1, -1, 224, 224)).softmax(1)[0]
    assert label.name == weights.meta["categories"][int(probabilities.argmax())]
    assert label.score == pytest.approx(float(probabilities.max()), rel=1e-4)
    with pytest.raises(ValueError, match="tells 1000 classes apart, 'cifar10' has 10"):
        load_classifier("torchvision:squeezenet1_1", "cifar10")


def test_torchvision_weights_out_of_reach(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match="weights of torchvision:squeezenet1_1 are not at hand.*no network"):
        load_classifier("torchvision:squeezenet1_1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet8", "no classifier 'resnet8': did you mean 'resnet"),
        ("nowhere", "unknown classifier 'nowhere': give a checkpoint"),
        ("nowhere.onnx", "no ONNX file at 'nowhere.onnx'"),
    ],
)
def test_unknown_classifiers(name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_classifier(name)


def test_speed_of_classifiers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(classify_speed, "ROUNDS", 3)
    path = write_mean_colour(tmp_path / "net.onnx", classes=list("abc"), input_normalization={"mean": MEAN, "std": STD})
    assert classify_speed.main([path, "--regions", "2"]) == 0
    name, *times = capsys.readouterr().out.splitlines()[-1].split()
    median, fastest, p95 = map(float, times)
    assert name == path
    assert 0 < fastest <= median <= p95
    assert classify_speed.main(["nowhere"]) == 2
    assert "unknown classifier 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 8, 40])
def test_regions_lie_in_the_picture(count):
    found = classify_speed.squares(count)
    assert len(found) == count
    assert all(0 <= box.x1 < box.x2 <= 352 and 0 <= box.y1 < box.y2 <= 288 for box in found)


def test_the_shipped_network_knows_test_images(capsys):
    images, labels = zoo_samples.read("cifar10")
    pictures = images[:100].permute(0, 2, 3, 1).numpy()[..., ::-1]  # OpenCV's order of colours
    classifier = load_classifier("zoo:nin_xnornet", threads=1)
    named = [classifier(np.ascontiguousarray(picture), [Box(0, 0, 32, 32)])[0].name for picture in pictures]
    right = [name == classifier.classes[label] for name, label in zip(named, labels[:100], strict=True)]
    assert sum(right) > 65
    with pytest.raises(ValueError, match="no trained weights of 'nin' for 'cifar10'"):
        load_classifier("zoo:nin")
