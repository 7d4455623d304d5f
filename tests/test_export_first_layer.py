"""First convolutions of packed files that hand on bits: which do, and that the file computes what it did before."""

import numpy as np
import onnx
import pytest
import torch
from converted_models import spread_norms
from onnx_runs import RUNTIMES
from torch import Tensor, nn

import models
import quantize
from quantize.export import float_layers
from quantize.kernels import cpu

pytestmark = pytest.mark.core
needs_library = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")


def nodes(path) -> list[onnx.NodeProto]:
    return [node for node in onnx.load(path).graph.node if node.domain == "xnorkit"]


def behind(first: nn.Conv2d, *between: nn.Module, scheme: str = "xnor", reader=None) -> nn.Module:
    """A network whose first layer stays float, with spread norms."""
    reader = reader or nn.Conv2d(first.out_channels, 8, 3, padding=1)
    net = nn.Sequential(first, nn.BatchNorm2d(first.out_channels), *between, reader, nn.AdaptiveAvgPool2d(1))
    return quantize.prepare(net, scheme, keep_float=("0",)).eval()


def eighths(*shape: int) -> Tensor:
    """Images whose sums with rounded filters are exact, in whatever order a runtime adds: no sign is moved."""
    return torch.randint(-16, 17, shape) / 8


def round_filters(net: nn.Module) -> None:
    for module in net.modules():
        if type(module) is nn.Conv2d:
            for values in module.parameters():
                values.data = (values.data * 128).round() / 128


class ReadTwice(nn.Module):
    """Two binary layers read the floats, each with thresholds of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3), nn.Conv2d(32, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.left(x) + self.right(x)


class CalledTwice(nn.Module):
    """One layer of floats, and of each call another reader."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 8, 3), nn.Conv2d(32, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(self.first(x)) + self.right(self.first(x.flip(3)))


def prepared(net: nn.Module) -> nn.Module:
    return quantize.prepare(net, "xnor", keep_float=("first",)).eval()


HAND_ON = {
    "plain": (lambda: behind(nn.Conv2d(3, 32, 3)), 1),
    "one channel, no bias": (lambda: behind(nn.Conv2d(1, 40, 5, padding=2, bias=False)), 1),
    "relu": (lambda: behind(nn.Conv2d(3, 33, 3, padding=1), nn.ReLU()), 1),
    "dilated, uneven": (lambda: behind(nn.Conv2d(4, 32, (3, 2), padding=(2, 0), dilation=(2, 1))), 1),
    "shuffle": (lambda: behind(nn.Conv2d(3, 32, 3), nn.ChannelShuffle(4)), 0),
    "strides": (lambda: behind(nn.Conv2d(3, 32, 3, 2)), 0),
    "few filters": (lambda: behind(nn.Conv2d(3, 31, 3)), 0),
    "many channels": (lambda: behind(nn.Conv2d(5, 32, 3)), 0),
    "groups": (lambda: behind(nn.Conv2d(4, 32, 3, groups=2)), 0),
    "K reads floats": (lambda: behind(nn.Conv2d(3, 32, 3), scheme="xnor:input_scale=True"), 0),
    "a pool of floats": (lambda: behind(nn.Conv2d(3, 32, 3), nn.MaxPool2d(2)), 0),
    "read twice": (lambda: prepared(ReadTwice()), 0),
    "called twice": (lambda: prepared(CalledTwice()), 2),
}


@pytest.mark.parametrize("name", HAND_ON)
def test_which_layers_hand_on_bits(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    build, count = HAND_ON[name]
    net = build()
    round_filters(net)
    x = eighths(4, next(m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d)), 11, 12)
    spread_norms(net, x)
    file, before = tmp_path / "net.onnx", tmp_path / "before.onnx"
    quantize.export_onnx(net, file, x)
    monkeypatch.setattr(float_layers, "_pays", lambda *_: False)
    quantize.export_onnx(net, before, x)
    names = [node.op_type for node in nodes(file)]
    assert names.count("FloatConvToBits") == count
    assert sum(name.startswith("BinaryConvFromBits") for name in names) == count
    versions = {entry.i for node in nodes(file) for entry in node.attribute if entry.name == "xnorkit_version"}
    assert versions == ({3} if count else set())
    if not count:
        assert file.read_bytes() == before.read_bytes()
    for images in (x, eighths(1, *x.shape[1:])):
        for run in RUNTIMES.values():  # to the last bit: the body is the convolution that stood there
            assert np.array_equal(run(file, images)[0], run(before, images)[0])
        expected = net(images).detach().numpy()
        for kernels in (True, False):
            session = quantize.ort_session(file, threads=1, kernels=kernels)
            y = session.run(None, {"input": images.numpy()})[0]
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


@needs_library
@pytest.mark.parametrize("name", ["nin_xnornet", "nin_gc_xnornet"])
def test_a_network_with_the_library_without_it_and_in_torch(name, tmp_path):
    torch.manual_seed(0)
    x = eighths(4, 3, 32, 32)
    net = quantize.prepare(models.create_model(name), "xnor", x)
    round_filters(net)
    spread_norms(net, x)
    quantize.export_onnx(net.eval(), tmp_path / "net.onnx", x)
    found = nodes(tmp_path / "net.onnx")
    assert found[0].op_type == "FloatConvToBits"
    assert all(("xnorkit_version", 3) in {(entry.name, entry.i) for entry in node.attribute} for node in found)
    expected = quantize.convert(net, x)(x).numpy()
    for kernels in (True, False):
        session = quantize.ort_session(tmp_path / "net.onnx", threads=1, kernels=kernels)
        y = session.run(None, {"input": x.numpy()})[0]
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_images_of_any_size(tmp_path):
    torch.manual_seed(0)
    net = behind(nn.Conv2d(3, 32, 3, padding=1))
    round_filters(net)
    spread_norms(net, eighths(4, 3, 12, 12))
    quantize.export_onnx(net, tmp_path / "net.onnx", eighths(4, 3, 12, 12), dynamic_size=True)
    assert nodes(tmp_path / "net.onnx")[0].op_type == "FloatConvToBits"
    x = eighths(2, 3, 20, 17)
    y = quantize.ort_session(tmp_path / "net.onnx", threads=2).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(y, net(x).detach().numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", ["standard", "int8"])
def test_other_formats_have_no_functions(format, tmp_path):
    net = behind(nn.Conv2d(3, 32, 3))
    quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(4, 3, 12, 12), format=format)
    assert not nodes(tmp_path / "net.onnx")
