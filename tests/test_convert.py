"""convert: what it fuses, and that the result is the same."""

import copy

import pytest
import torch
from converted_models import Blocks, converted, network, rows
from torch import nn
from torch.nn import functional as F

import models
import quantize
from quantize.packed.pool import PackedMaxPool2d

pytestmark = pytest.mark.core


def test_more_values_than_bits_stay_float_and_the_report_says_so():
    layer = quantize.prepare(nn.Sequential(nn.Conv2d(6, 9, 3)), "dorefa:w_bits=32", keep_float=())
    packed = quantize.convert(layer, torch.randn(1, 6, 5, 5))
    assert type(packed[0]) is quantize.BinaryConv2d
    assert "left as it was" in rows(packed)["0"].note


@pytest.mark.parametrize("kind", ["conv", "linear", "conv1d"])
def test_batch_norm_before_the_sign_is_a_threshold(kind):
    """Also a negative gamma, which flips the comparison, and 0, which makes the bit constant."""
    build, bn, shape = {
        "conv": (lambda: nn.Conv2d(64, 16, 3, padding=1), nn.BatchNorm2d(64), (8, 64, 6, 6)),
        "linear": (lambda: nn.Linear(64, 16), nn.BatchNorm1d(64), (64, 64)),
        "conv1d": (lambda: nn.Conv1d(64, 16, 3), nn.BatchNorm1d(64), (8, 64, 9)),
    }[kind]
    x = torch.randn(shape)
    prepared, packed = converted(nn.Sequential(nn.ReLU(), bn, nn.Dropout(), build()), x, keep_float=())
    gamma = prepared[1].weight
    assert (gamma < 0).any()
    assert (gamma > 0).any()
    assert (gamma == 0).any()
    assert rows(packed)["3"].absorbed == ("0", "1", "2")
    assert all(isinstance(packed[i], nn.Identity) for i in range(3))
    for _ in range(20):
        x = torch.randn(shape)
        assert torch.equal(packed(x), prepared(x))


def test_a_threshold_is_exact_to_the_last_bit():
    """Inputs at the very floats where batch norm's own rounding crosses zero."""
    torch.manual_seed(0)
    prepared, packed = converted(
        nn.Sequential(nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1)), torch.randn(8, 64, 4, 4), keep_float=()
    )
    edge = packed[1].threshold.where(packed[1].threshold.isfinite(), 0)  # a gamma of 0 has no edge
    steps = [edge, edge.nextafter(torch.tensor(1e9)), edge.nextafter(torch.tensor(-1e9))]
    x = torch.stack(steps).view(3, 64, 1, 1).expand(3, 64, 4, 4).contiguous()
    edge = packed[1].threshold.view(1, -1, 1, 1)
    bits = torch.where(packed[1].flip.view(1, -1, 1, 1), x <= edge, x >= edge)
    assert torch.equal(bits, prepared[0](x) >= 0)
    assert torch.equal(packed(x), prepared(x))


def test_batch_norm_and_relu_after_a_layer_are_its_scale_bias_and_end():
    x = torch.randn(8, 64, 6, 6)
    net = nn.Sequential(nn.Conv2d(64, 32, 3), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.AvgPool2d(2))
    prepared, packed = converted(net, x, keep_float=())
    assert rows(packed)["0"].absorbed == ("1", "2")
    torch.testing.assert_close(packed(x), prepared(x), rtol=1e-5, atol=1e-5)


class OwnShuffle(nn.Module):
    """As users write it: with sizes."""

    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)


BETWEEN = {
    "nothing": [],
    "relu": [nn.ReLU()],
    "relu6": [nn.ReLU6(), nn.Identity()],
    "max pool": [nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)],
    "pool of 2": [nn.MaxPool2d(2)],
    "pool with ceil_mode": [nn.MaxPool2d(3, stride=2, ceil_mode=True)],
    "no window in the padding": [nn.MaxPool2d(2, stride=2, padding=1, ceil_mode=True)],
    "dilated pool": [nn.MaxPool2d(2, stride=1, dilation=2)],
    "batch norm, pool": [nn.BatchNorm2d(96), nn.MaxPool2d(2), nn.ReLU()],
    "shuffle": [nn.ReLU(), models.layers.ChannelShuffle(2)],
    "torch's shuffle": [nn.ChannelShuffle(3)],
    "own shuffle": [OwnShuffle()],
    "pool, shuffle": [nn.ReLU(), nn.MaxPool2d(2), models.layers.ChannelShuffle(8)],
    "shuffle, pool": [models.layers.ChannelShuffle(8), nn.BatchNorm2d(96), nn.MaxPool2d(2)],
    "two pools": [nn.MaxPool2d(2), nn.BatchNorm2d(96), nn.MaxPool2d(3, stride=1, padding=1)],
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", BETWEEN)
def test_bits_go_from_layer_to_layer(name, groups):
    x = torch.randn(4, 64, 11, 9)
    prepared, packed = converted(Blocks(*copy.deepcopy(BETWEEN[name]), groups=groups), x, keep_float=())
    report = rows(packed)
    assert (report["conv1"].input, report["conv1"].output) == ("float", "bits")
    assert (report["conv2"].input, report["conv2"].output) == ("bits", "float")
    assert all(isinstance(m, (nn.Identity, PackedMaxPool2d)) for m in packed.between)
    for _ in range(5):
        x = torch.randn(2, 64, 11, 9)
        assert torch.equal(packed(x), prepared(x))


class TwoReaders(Blocks):
    """What goes into the second convolution goes elsewhere too."""

    def forward(self, x):
        x = self.between(self.conv1(self.bn1(x)))
        return self.conv2(self.bn2(x)) + x.mean()


class ReadsShape(Blocks):
    def forward(self, x):
        x = self.between(self.conv1(self.bn1(x)))
        return self.conv2(self.bn2(x)) * x.shape[1]


class Functional(Blocks):
    def forward(self, x):
        return self.conv2(F.relu(self.bn2(self.between(self.conv1(self.bn1(x))))))


class Twice(Blocks):
    def forward(self, x):
        x = self.between(self.conv1(self.bn1(x)))
        return self.conv2(self.bn2(x)) + self.conv2(self.bn2(x + 1))


class InPlace(Blocks):
    """A ReLU that changes what the shortcut reads."""

    def forward(self, x):
        x = self.conv1(self.bn1(x))
        y = self.between(x)
        return self.conv2(self.bn2(y)) + x.sum()


class SharedActivation(Blocks):
    """Each of its two outputs has one reader."""

    def forward(self, x):
        x = self.conv2(self.between(self.conv1(self.bn1(x))))
        return self.between(x).mean()


class Returned(Blocks):
    """What passes from the one convolution to the other is an output, too."""

    def forward(self, x):
        x = self.between(self.conv1(self.bn1(x)))
        return self.conv2(self.bn2(x)), x


KINDS = [TwoReaders, ReadsShape, Functional, Twice, InPlace, SharedActivation, Returned]


@pytest.mark.parametrize("kind", KINDS)
def test_what_something_else_reads_is_not_fused(kind):
    x = torch.randn(4, 64, 11, 9)
    prepared, packed = converted(kind(nn.ReLU(inplace=True)), x, keep_float=())
    assert rows(packed)["conv1"].output == "float"
    torch.testing.assert_close(packed(x), prepared(x))


def test_modules_with_hooks_stay():
    x = torch.randn(4, 64, 11, 9)
    torch.manual_seed(0)
    prepared = quantize.prepare(Blocks(nn.ReLU()), example_input=x, keep_float=())
    seen = []
    prepared.bn2.register_forward_hook(lambda *_: seen.append("bn2"))
    prepared.conv2.register_forward_hook(lambda *_: seen.append("conv2"))
    packed = quantize.convert(prepared, x)
    assert rows(packed)["conv1"].output == "float"
    seen.clear()
    packed(x)
    assert seen == ["bn2", "conv2"]


def test_the_model_is_left_as_it_was():
    x = torch.randn(4, 64, 11, 9)
    prepared = quantize.prepare(Blocks(nn.ReLU()), example_input=x, keep_float=()).train()
    before = copy.deepcopy(prepared.state_dict())
    quantize.convert(prepared, x)
    assert prepared.training
    assert prepared.conv1.weight.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in prepared.state_dict().items())
    assert not any(module._forward_hooks for module in prepared.modules())


def test_nothing_to_convert():
    with pytest.raises(ValueError, match=r"nothing to convert: .*quantize.prepare"):
        quantize.convert(nn.Linear(3, 3), torch.randn(2, 3))
    layer = quantize.convert(quantize.prepare(nn.Linear(64, 3), keep_float=()), torch.randn(2, 64))
    assert isinstance(layer, quantize.PackedLinear)
    with pytest.raises(ValueError, match="nothing to convert"):
        quantize.convert(layer, torch.randn(2, 64))
    with pytest.raises(ValueError, match="does not run on example_input"):
        quantize.convert(quantize.prepare(nn.Linear(64, 3), keep_float=()), torch.randn(2, 63))


def test_a_converted_model_is_not_restored():
    x = torch.randn(2, 6)
    packed = quantize.convert(quantize.prepare(nn.Linear(6, 3), "bwn", keep_float=()), x)
    with pytest.raises(ValueError, match="holds bits only"):
        quantize.restore(packed)


def test_the_report_is_a_table():
    _, packed, _ = network()
    text = str(quantize.conversion_report(packed))
    assert text.splitlines()[0].split() == ["layer", "became", "input", "output", "computes", "too", "bytes", "note"]
    assert "relu, pool1, block4.shuffle, block4.bn" in text
