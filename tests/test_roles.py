"""Tiny layers, gates and the convolutions of shortcuts; what contradicts keep_float."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import quantize

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


# Tiny layers


def test_tiny_layers_draw_a_warning_and_can_stay_float():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 40, 1),
        nn.ConvTranspose2d(40, 16, 3, groups=8),
        nn.Flatten(),
        nn.Linear(16 * 196, 4),
        nn.Linear(4, 2),
    )
    plan = quantize.plan(model, "xnor", IMAGES)
    assert [row.warning for row in plan] == ["", "fan-in 9, less than 32", "", "", "", ""]
    assert "fan-in 9, less than 32" in str(plan)
    kept = quantize.plan(model, "xnor", IMAGES, ("first", "last", "tiny"))
    assert kept.binary == ["2", "3", "5"]
    assert kept["1"].reason == "tiny: fan-in 9, less than 32"
    wide = quantize.plan(model, "xnor", keep_float="tiny", min_fan_in=46)
    assert wide.binary == ["5"]
    assert wide["3"].reason == "tiny: fan-in 45, less than 46"
    assert quantize.prepare(model, "xnor", IMAGES, ("tiny",), min_fan_in=0)[6].threshold is None
    assert not any(row.warning for row in quantize.plan(model, "xnor", min_fan_in=0))
    with pytest.raises(ValueError, match="min_fan_in is -1; it must be 0"):
        quantize.plan(model, "xnor", min_fan_in=-1)


class SqueezeExcite(nn.Module):
    def __init__(self, linear: bool):
        super().__init__()
        self.linear = linear
        self.reduce, self.expand = (
            (nn.Linear(64, 48), nn.Linear(48, 64)) if linear else (nn.Conv2d(64, 48, 1), nn.Conv2d(48, 64, 1))
        )

    def forward(self, x):
        gate = x.mean((2, 3), keepdim=not self.linear)
        gate = torch.sigmoid(self.expand(F.silu(self.reduce(gate))))
        return x * (gate[:, :, None, None] if self.linear else gate)


@pytest.mark.parametrize("linear", [False, True])
def test_squeeze_and_excitation_is_tiny_whatever_its_fan_in(linear):
    head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 2, 1)  # one position as well, and no gate
    model = nn.Sequential(nn.Conv2d(3, 64, 3), SqueezeExcite(linear), nn.Conv2d(64, 64, 1), *head)
    plan = quantize.plan(model, "xnor", IMAGES)
    assert [row.name for row in plan if row.warning] == ["1.reduce", "1.expand"]
    assert plan["1.expand"].warning == "gates channels"
    assert quantize.plan(model, "xnor", IMAGES, ("first", "last", "tiny")).binary == ["2"]


class ChannelAttention(nn.Module):
    """A gate of one layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()


def test_a_gate_that_holds_all_layers_of_one_position():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), ChannelAttention(), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 2, 1))
    assert [row.name for row in quantize.plan(model, "xnor", IMAGES) if row.warning == "gates channels"] == ["1.conv"]


class SpatialAttention(nn.Module):
    """One value a place, for all channels (Woo et al., CBAM, 2018); ``first``: it is the left operand."""

    def __init__(self, first: bool):
        super().__init__()
        self.first, self.conv = first, nn.Conv2d(64, 1, 7, padding=3)

    def forward(self, x):
        gate = self.conv(x).sigmoid()
        return gate * x if self.first else x * gate


@pytest.mark.parametrize("first", [False, True])
def test_a_gate_of_places_is_none_of_channels(first):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), SpatialAttention(first), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 2, 1))
    assert not any(row.warning for row in quantize.plan(model, "xnor", IMAGES))


def test_a_gated_linear_unit_is_no_squeeze_and_excitation():
    class GLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            return self.value(x) * torch.sigmoid(self.gate(x))

    model = nn.Sequential(nn.Linear(64, 64), GLU(), nn.Linear(64, 2))
    assert not any(row.warning for row in quantize.plan(model, "xnor", torch.randn(4, 64)))


# Shortcuts


class Residual(nn.Module):
    def __init__(self, shortcut: nn.Module, body: nn.Module):
        super().__init__()
        self.shortcut, self.body = shortcut, body

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.body(x))


def residual(shortcut: nn.Module, body: nn.Module | None = None) -> nn.Sequential:
    body = body or nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Residual(shortcut, body), nn.Conv2d(8, 2, 1))


@pytest.mark.parametrize(
    "model",
    [
        residual(nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.BatchNorm2d(8))),
        residual(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))),
        residual(nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 3, 2, 1)),  # Bi-Real Net: a shortcut round one convolution
    ],
    ids=["resnet", "resnet_d", "bireal"],
)
def test_downsample_is_found_by_its_place(model):
    plan = quantize.plan(model, "xnor", IMAGES, ("first", "last", "downsample"))
    found = [row.name for row in plan if row.reason == "downsample: alone on a shortcut"]
    assert len(found) == 1
    assert found[0].startswith("1.shortcut")
    assert len(plan.binary) == len(plan) - 3


@pytest.mark.parametrize(
    "model",
    [
        residual(nn.MaxPool2d(2)),
        residual(nn.Conv2d(8, 8, 3, 2, 1)),  # a convolution in parallel, not a projection
        residual(nn.Conv2d(8, 8, (1, 3), 2, (0, 1))),
        residual(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)),  # neither is the shortcut of the other
        residual(nn.Linear(16, 16), nn.Conv2d(8, 8, 3, 1, 1)),
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)),
    ],
    ids=["pooled", "3x3", "1x3", "twins", "linear", "chain"],
)
def test_downsample_leaves_other_layers_alone(model):
    plan = quantize.plan(model, "xnor", IMAGES, ("first", "last", "downsample"))
    assert not any(row.reason.startswith("downsample") for row in plan)


def test_downsample_of_stock_residual_networks():
    plan = quantize.plan(torchvision.models.resnet18(), "xnor", torch.randn(2, 3, 32, 32), "downsample")
    assert plan.kept_float == [f"layer{i}.0.downsample.0" for i in (2, 3, 4)]


def test_downsample_needs_a_run():
    with pytest.raises(ValueError, match="keep_float 'downsample' needs an example_input"):
        quantize.plan(torchvision.models.resnet18(), "xnor", keep_float=("downsample",))


def test_an_override_that_contradicts_keep_float():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    with pytest.raises(ValueError, match="keep_float has '1' and overrides makes it 'bwn'; name it in one of the two"):
        quantize.plan(model, "xnor", keep_float=("first", "1"), overrides={"1": "bwn"})
    with pytest.raises(ValueError, match="keep_float has 'Linear' and overrides makes it 'bwn'"):
        quantize.plan(model, "xnor", keep_float=nn.Linear, overrides={nn.Linear: "bwn"})
    assert quantize.plan(model, "xnor", keep_float=("1",), overrides={"1": None}).binary == ["0", "2", "3"]
    assert quantize.plan(model, "xnor", keep_float=("[12]",), overrides={"1": "bwn"}).binary == ["0", "1", "3"]
