"""Residual blocks against their formulas."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import quantize
from models import RPReLU
from models.resnet import BASIC, BinaryBlock, BiRealBlock, FloatBlock, ReActBlock


def random_block(kind, in_channels=6, width=6, stride=1):
    """A block in evaluation mode, with batch norms that do something."""
    torch.manual_seed(0)
    block = kind(BASIC, in_channels, width, stride)
    for bn in block.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.uniform_(bn.weight, -1, 1)
            for tensor in (bn.bias, bn.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(bn.running_var, 0.5, 2)
        if isinstance(bn, RPReLU):
            for parameter in bn.parameters():
                nn.init.normal_(parameter)
    return block.eval()


def norm(bn, x):
    """Batch norm from its definition."""
    mean, var, gamma, beta = (t.view(-1, 1, 1) for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
    return (x - mean) / torch.sqrt(var + bn.eps) * gamma + beta


def conv(layer, x):
    return F.conv2d(x, layer.weight, stride=layer.stride, padding=1)


def test_float_block():
    block, x = random_block(FloatBlock), torch.randn(2, 6, 5, 5)
    inner = norm(block.bn1, conv(block.conv1, x)).relu()
    torch.testing.assert_close(block(x), (norm(block.bn2, conv(block.conv2, inner)) + x).relu())


def test_binary_block():
    block, x = random_block(BinaryBlock), torch.randn(2, 6, 5, 5)
    inner = conv(block.conv1, norm(block.bn1, x)).relu()
    torch.testing.assert_close(block(x), conv(block.conv2, norm(block.bn2, inner)) + x)


@pytest.mark.parametrize("kind", [BiRealBlock, ReActBlock])
def test_prepared_block_has_a_shortcut_round_every_convolution(kind):
    block, x = random_block(kind), torch.randn(2, 6, 5, 5)
    binary = quantize.prepare(block, "bireal", keep_float=())
    y = x
    for i in ("1", "2"):
        w = getattr(block, f"conv{i}").weight
        alpha = w.abs().mean((1, 2, 3)).view(-1, 1, 1)
        signs = F.conv2d(torch.where(y >= 0, 1.0, -1.0), torch.where(w >= 0, 1.0, -1.0), padding=1)
        y = y + norm(getattr(block, f"bn{i}"), alpha * signs)
        if kind is ReActBlock:
            y = getattr(block, f"act{i}")(y)
    torch.testing.assert_close(binary(x), y)


@pytest.mark.parametrize("name", ["resnet18_xnornet", "resnet18_bireal", "resnet34_react"])
def test_input_reaches_the_output_round_all_binary_convolutions(name):
    torch.manual_seed(0)
    model = models.create_model(name).eval()
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and "layer" in key and "downsample" not in key:
            nn.init.zeros_(module.weight)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    model(x)[0, 0].backward()
    assert x.grad.any()


@pytest.mark.parametrize("kind", [BinaryBlock, BiRealBlock, ReActBlock])
@pytest.mark.parametrize("size", [1, 6, 7])
def test_downsampling_halves_and_rounds_up(kind, size):
    block = random_block(kind, in_channels=4, width=8, stride=2)
    assert block(torch.randn(2, 4, size, size)).shape == (2, 8, (size + 1) // 2, (size + 1) // 2)


def test_bireal_shortcut_averages_four_pixels():
    block = random_block(BiRealBlock, in_channels=4, width=8, stride=2)
    x = torch.randn(2, 4, 6, 6)
    means = x.reshape(2, 4, 3, 2, 3, 2).mean((3, 5))
    expected = norm(block.downsample[2], torch.einsum("oi,nihw->nohw", block.downsample[1].weight[:, :, 0, 0], means))
    torch.testing.assert_close(block.downsample(x), expected)
