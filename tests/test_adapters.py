"""Layer subclasses with a forward of their own keep their weight transform and padding."""

import copy
import io
import math
import pickle

import pytest
import torch
from timm import layers as timm_layers
from torch import nn
from torch.nn import functional as F

import quantize


def sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def pad_same(x: torch.Tensor, kernel: int, stride: int, dilation: int) -> torch.Tensor:
    """TensorFlow: pad to ceil(n / stride) outputs, the odd one at the end."""
    pads = []
    for size in reversed(x.shape[2:]):
        needed = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pads += [needed // 2, needed - needed // 2]
    return F.pad(x, pads)


def standardized(layer: nn.Module) -> torch.Tensor:
    weight = layer.weight.detach().double().flatten(1)
    weight = (weight - weight.mean(1, keepdim=True)) / (weight.var(1, keepdim=True, unbiased=False) + layer.eps).sqrt()
    if hasattr(layer, "gain"):
        weight = weight * layer.gain.detach().flatten(1) / math.sqrt(weight.shape[1])
    return weight.reshape(layer.weight.shape).float()


SUBCLASSES = ["Conv2dSame", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"]


def subclassed(kind: str, **options) -> tuple[nn.Sequential, nn.Sequential]:
    """A network of one such layer whose gains differ, and the prepared one."""
    torch.manual_seed(0)
    model = nn.Sequential(getattr(timm_layers, kind)(4, 6, 3, **options))
    if hasattr(model[0], "gain"):
        nn.init.normal_(model[0].gain)
    return model, quantize.prepare(model, "bwn", keep_float=())


@pytest.mark.parametrize("scheme", ["bnn", "xnor:center=false", "bwn"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"stride": 2, "groups": 2, "bias": True}, {"stride": 3, "dilation": 2}], ids=str
)
@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_keeps_its_weight_transform_and_padding(kind, options, scheme):
    model, _ = subclassed(kind, **options)
    layer, x = model[0], torch.randn(2, 4, 11, 14)
    weight = standardized(layer) if "Std" in kind else layer.weight.detach()
    alpha = 1.0 if scheme == "bnn" else weight.abs().mean((1, 2, 3), keepdim=True)
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    padded = x if scheme == "bwn" else sign(x)
    padded = pad_same(padded, 3, stride, dilation) if kind.endswith("Same") else F.pad(padded, [layer.padding[0]] * 4)
    expected = F.conv2d(padded, sign(weight) * alpha, layer.bias, stride, 0, dilation, options.get("groups", 1))
    prepared = quantize.prepare(model, scheme, x, keep_float=())
    assert isinstance(prepared[0], quantize.BinaryConv2d)
    torch.testing.assert_close(prepared(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_subclass_survives_copies_and_restore(kind):
    model, prepared = subclassed(kind, stride=2)
    x = torch.randn(2, 4, 7, 7)
    for copied in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert torch.equal(copied(x), prepared(x))
    file = io.BytesIO()
    torch.save(prepared.state_dict(), file)
    file.seek(0)
    assert prepared.state_dict().keys() == model.state_dict().keys()
    prepared.load_state_dict(torch.load(file, weights_only=True))
    restored = quantize.restore(prepared)
    assert type(restored[0]) is type(model[0])
    assert vars(restored[0]).keys() == vars(model[0]).keys()
    assert torch.equal(restored(x), model(x))


def test_the_gain_of_a_scaled_convolution_learns():
    _, prepared = subclassed("ScaledStdConv2d")
    prepared(torch.randn(2, 4, 7, 7)).square().sum().backward()
    assert prepared[0].gain.grad.abs().min() > 0
    assert prepared[0].weight.grad.abs().sum() > 0


def test_a_learned_scale_starts_from_the_standardized_weight():
    model, _ = subclassed("ScaledStdConv2d")
    prepared = quantize.prepare(model, "xnorpp", keep_float=())
    torch.testing.assert_close(prepared[0].gamma, standardized(model[0]).abs().mean((1, 2, 3)), check_layout=False)


def test_timm_linear_and_torchvision_subclasses_become_binary():
    from torchvision.models.video.resnet import Conv3DNoTemporal, Conv3DSimple

    model = nn.Sequential(Conv3DSimple(3, 4), Conv3DNoTemporal(4, 5), nn.Flatten(), timm_layers.linear.Linear(320, 3))
    x = torch.randn(2, 3, 4, 4, 4)
    assert quantize.plan(model, "xnor", x, keep_float=()).binary == ["0", "1", "3"]
    assert quantize.prepare(model, "xnor", x, keep_float=())(x).shape == (2, 3)


def doubled(layer: nn.Module) -> torch.Tensor:
    return layer.weight * 2


class DoubledLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight * 2, self.bias)


class InheritingLinear(DoubledLinear):
    """Uses the registered forward."""


class ShiftedLinear(DoubledLinear):
    def forward(self, x):
        return super().forward(x) + 1


def test_register_layer_is_for_one_forward_and_who_inherits_it():
    model = nn.Sequential(DoubledLinear(4, 4), InheritingLinear(4, 4), ShiftedLinear(4, 4))
    with pytest.raises(ValueError, match="0: DoubledLinear has a forward of its own"):
        quantize.plan(model, "bwn", keep_float=())
    quantize.register_layer(DoubledLinear, weight=doubled)
    plan = quantize.plan(model, "bwn", keep_float=())
    assert plan.binary == ["0", "1"]
    assert "ShiftedLinear has a forward of its own" in plan["2"].reason
    x = torch.randn(3, 4)
    layer = quantize.prepare(model, "bwn", keep_float=())[0]
    alpha = (2 * layer.weight).abs().mean(1)
    torch.testing.assert_close(layer(x), x @ sign(layer.weight).T * alpha + layer.bias)


def test_a_taken_attribute_keeps_a_layer_float():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].threshold = 0.5
    plan = quantize.plan(model, "xnor", keep_float=())
    assert plan.binary == ["0"]
    assert plan["1"].reason == "it has an attribute 'threshold', a name that binary layers use"


def test_a_learned_scale_leaves_the_scale_of_a_scaled_convolution_alone():
    layer = timm_layers.ScaledStdConv2d(8, 6, 3)
    binary = quantize.prepare(nn.Sequential(layer), "xnorpp", keep_float=())
    assert binary[0].scale == layer.scale
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(quantize.restore(binary)[0](x), layer(x))
