"""convert on whole networks: every registered network, every scheme, a whole test set."""

from pathlib import Path

import pytest
import torch
import torchvision
from converted_models import spread_norms
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import models
import quantize
from quantize.packed import PackedLayer
from quantize.scheme import preferred_layouts

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BINARY = [name for name in models.list_models() if models.resolve(name).scheme]


def agreeing_rows(found: torch.Tensor, expected: torch.Tensor) -> int:
    """Samples whose outputs agree to 1e-5 of the largest. Rounding moves a sign now and then; all after it differs."""
    difference = (found - expected).abs().amax(1) / expected.abs().max()
    return int((difference <= 1e-5).sum())


@pytest.mark.parametrize("name", BINARY)
def test_network(name):
    spec = models.resolve(name)
    channels, *size = spec.input_size
    size = [min(side, 75) if "imagenet" in name else side for side in size]
    x = torch.randn(6, channels, *size)
    net = quantize.prepare(models.create_model(name), spec.scheme, x, keep_float=spec.keep_float)
    binary = sum(isinstance(module, quantize.BinaryLayer) for module in net.modules())
    spread_norms(net, x)
    packed = quantize.convert(net, x)
    assert sum(isinstance(module, PackedLayer) for module in packed.modules()) == binary
    images = torch.randn(4, channels, *size)
    with torch.no_grad():
        assert agreeing_rows(packed(images), net(images)) >= 3


@pytest.mark.parametrize("name", ["nin_gc", "resnet20"])
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_scheme(scheme, name):
    arch = f"{name}_{'xnornet' if scheme == 'xnor' else scheme}"
    x = torch.randn(6, 3, 32, 32)
    layouts = preferred_layouts()
    spec = models.resolve(arch, layouts)
    net = quantize.prepare(models.create_model(arch, schemes=layouts), scheme, x, keep_float=spec.keep_float)
    spread_norms(net, x)
    packed = quantize.convert(net, x)
    stored = {key for key in packed.state_dict() if key.endswith((".weight_bits", ".weight_codes"))}
    assert len(stored) == sum(isinstance(module, quantize.BinaryLayer) for module in net.modules())
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert agreeing_rows(packed(images), net(images)) >= 3


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_stock_network(name):
    """As torchvision has it: functional ReLUs, shared modules, squeeze-excite, branches."""
    x = torch.randn(4, 3, 75, 75)
    options = {"aux_logits": False} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, weights=None, num_classes=10, **options)
    net = quantize.prepare(net, "xnor", x)
    spread_norms(net, x)
    packed = quantize.convert(net, x)
    with torch.no_grad():
        assert agreeing_rows(packed(x), net(x)) >= 3


def trained(arch: str, images: torch.Tensor, labels: torch.Tensor, steps: int) -> nn.Module:
    """The network after ``steps`` of 100 images each."""
    net = quantize.prepare(models.create_model(arch, in_chans=1), models.resolve(arch).scheme, images[:100])
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for i in range(steps):
        batch = torch.arange(100 * i, 100 * (i + 1)) % len(images)
        optimizer.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    return net.eval()


def check_test_set(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, at_least: float) -> None:
    packed = quantize.convert(net, images[:1])
    with torch.no_grad():
        expected = torch.cat([net(part) for part in images.split(500)])
        found = torch.cat([packed(part) for part in images.split(500)])
    assert (expected.argmax(1) == labels).float().mean() > at_least
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_all_digits_have_the_same_class():
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1, size=(28, 28))
    labels = torch.tensor(digits.target)
    check_test_set(trained("lenet5_xnornet", images, labels, 60), images, labels, 0.8)


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason="MNIST is in ../shared/data, which is not there")
def test_all_of_mnist_has_the_same_class():
    sets = [torchvision.datasets.MNIST(DATA, train=train) for train in (True, False)]
    (images, labels), test = ((s.data[:, None].float() / 127.5 - 1, s.targets) for s in sets)
    check_test_set(trained("lenet5_xnornet", images, labels, 60), *test, 0.8)
    assert len(test[0]) == 10_000
