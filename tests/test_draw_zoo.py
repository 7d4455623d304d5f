"""tools/draw_zoo: the picture shows the registry of today, and every network that it can."""

import dataclasses
import json

import matplotlib.image
import pytest
from PIL import Image

import models
from tools import draw_zoo

NETWORKS = [
    draw_zoo.Network("lenet5_xnornet", "MNIST", (99.6, 99.3), (1725, 94), (0.11, 0.04)),
    draw_zoo.Network("nin_xnornet", "CIFAR-10", (89.7, 86.3), (3900, 190), (2.7, 0.57)),
    draw_zoo.Network("mlp_xnornet", "MNIST", (None, 97.7), (147000, 5000), (20.0, 1.0)),
    draw_zoo.Network("resnet18_bireal", "CIFAR-10", (95.0, 91.5), (44700, 1900), None),
]


def dots(axis) -> set[tuple[float, float]]:
    return {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axis.lines}


def test_the_picture_in_the_readme_is_of_the_registry_of_today():
    kept = Image.open(draw_zoo.OUT).text[draw_zoo.KEY]
    assert kept == draw_zoo.source(*draw_zoo.networks()), "run python tools/draw_zoo.py"


@pytest.mark.parametrize("dataset", sorted({dataset for _, dataset in models.list_pretrained()}))
def test_the_curves_are_of_the_runs_of_the_registry(dataset):
    curves = draw_zoo.curves_of(dataset)
    kept = Image.open(draw_zoo.OUT.with_name(f"zoo_{dataset}.png")).text[draw_zoo.KEY]
    assert kept == json.dumps(curves), "run python tools/draw_zoo.py"
    for name, run in curves.items():
        entry = models.get_pretrained(name, dataset)
        assert max(run.test) == entry.epochs
        assert run.test[entry.epochs] == pytest.approx(entry.accuracy, abs=0.05)


def test_networks_are_those_of_the_registry():
    _, drawn = draw_zoo.networks()
    assert [network.name for network in drawn] == [name for name, _ in models.list_pretrained()]
    first = models.get_pretrained(*models.list_pretrained()[0])
    assert drawn[0].accuracy == (first.float_accuracy, first.accuracy)
    assert drawn[0].kilobytes[1] == first.onnx_path.stat().st_size / 1000


def test_a_dot_for_each_that_was_measured():
    size, time = draw_zoo.draw("a processor", NETWORKS).axes
    assert dots(size) == {
        (x, y) for net in NETWORKS for x, y in zip(net.kilobytes, net.accuracy, strict=True) if y is not None
    }
    assert dots(time) == {(0.11, 99.6), (0.04, 99.3), (2.7, 89.7), (0.57, 86.3), (1.0, 97.7)}
    named = [text.get_text() for text in size.texts if "," in text.get_text()]
    assert named == [f"{net.name}, {net.data}" for net in NETWORKS]


@pytest.mark.parametrize("drawn", [NETWORKS, NETWORKS[:1], draw_zoo.networks()[1]], ids=len)
def test_nothing_written_is_cut_off(drawn):
    figure = draw_zoo.draw("a processor", drawn)
    figure.draw_without_rendering()
    for axis in figure.axes:
        inside = axis.get_window_extent()
        for text in axis.texts:
            box = text.get_window_extent()
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, text.get_text()
            assert inside.y0 <= box.y0 <= box.y1 <= inside.y1, text.get_text()
        for label in (axis.xaxis.label, axis.title):
            assert figure.bbox.x0 <= label.get_window_extent().x0 <= label.get_window_extent().x1 <= figure.bbox.x1


def test_the_source_tells_networks_apart():
    other = dataclasses.replace(NETWORKS[0], accuracy=(99.6, 99.31))
    assert draw_zoo.source("p", NETWORKS[:1]) != draw_zoo.source("p", [other])


def test_a_picture_is_written(tmp_path, capsys):
    assert draw_zoo.main(["--out", str(tmp_path / "new" / "zoo.png")]) == 0
    assert matplotlib.image.imread(tmp_path / "new" / "zoo.png").std() > 0.1
    assert draw_zoo.main(["--out", str(tmp_path / "zoo.gif")]) == 2
    assert "is not a .png file" in capsys.readouterr().err
