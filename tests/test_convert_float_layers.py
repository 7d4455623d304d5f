"""``convert(float_layers="int8")``: what the layers compute, what that costs, and when it is refused."""

import copy
import re

import numpy as np
import pytest
import torch
from eight_bit_models import IMAGES, NETWORKS, prepared, rounded, with_outlier
from torch import Tensor, nn

import models
import quantize
from quantize.kernels import cpu
from quantize.packed import Int8Conv2d, Int8Linear
from quantize.packed.int8.int8_layers import Int8Layer

KERNELS = [name for name in ("scalar", "avx2", "avx512bw", "avx512") if name in cpu.available_kernels()]


def convert(net: nn.Module, x: Tensor, **options) -> nn.Module:
    return quantize.convert(net, x[:4], float_layers="int8", **{"calibration": x, "max_drop": 100, **options})


def eight_bit_layers(net: nn.Module) -> list[Int8Layer]:
    return [module for module in net.modules() if isinstance(module, Int8Layer)]


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"called twice"}))
def test_converted_networks_compute_with_8_bits(name):
    """As PyTorch's fake quantization of the float layers does, in every batch size."""
    net, x = prepared(name)
    converted = convert(net, x)
    exact, expected = net(x).detach(), rounded(net, x)(x).detach()
    largest = exact.abs().max()
    found = converted(x)
    assert not torch.equal(exact, found)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(largest))
    torch.testing.assert_close(converted(x[7:8]), found[7:8], rtol=0, atol=1e-5 * float(largest))
    left = [module for module in converted.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    assert len(left) == (name == "groups stay float")
    report = quantize.conversion_report(converted).float_layers
    assert report.difference == pytest.approx(float((found - exact).abs().max() / largest), rel=0.01)


def by_integers(layer: Int8Layer, x: np.ndarray) -> np.ndarray:
    """The layer's definition, tap by tap, in whole numbers."""
    g, (top, left, bottom, right) = layer.geometry, layer.geometry.padding
    zero = int(layer.x_zero)
    q = np.clip(np.rint(x * np.float32(layer.x_inverse)) + zero, 0, 255).astype(np.int64) - zero
    q = np.pad(q, ((0, 0), (0, 0), (top, bottom), (left, right)))
    w = layer.numbers.numpy().astype(np.int64).reshape(g.out_channels, *g.kernel, g.channels) - 128
    height, width = g.output_size(*x.shape[2:])
    sums = np.zeros((len(x), g.out_channels, height, width), np.int64)
    for i in range(g.kernel[0]):
        for j in range(g.kernel[1]):
            rows, columns = (np.arange(n) * s for n, s in zip((height, width), g.stride, strict=True))
            taps = q[:, :, (rows + i * g.dilation[0])[:, None], columns + j * g.dilation[1]]
            sums += np.einsum("nchw,oc->nohw", taps, w[:, i, j])
    scale, bias = (values.numpy().reshape(-1, 1, 1) for values in (layer.scale, layer.bias))
    return sums.astype(np.float32) * scale + bias


LAYERS = [
    nn.Conv2d(3, 20, 5, padding=2),
    nn.Conv2d(7, 33, (3, 2), stride=(2, 1), padding=(0, 3), dilation=(1, 2), bias=False),
    nn.Conv2d(16, 5, 1, stride=3),
    nn.Conv2d(4, 8, 3, padding="same", dilation=2),
]


@pytest.mark.parametrize("kernel", [*KERNELS, "torch"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_sums_are_exact(layer, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "reference" if kernel == "torch" else kernel)
    x = torch.randn(2, layer.in_channels, 11, 9)
    x[0, 0, 0, :3] = torch.tensor([1e9, -1e9, torch.inf])  # beyond what it was calibrated on
    made = Int8Conv2d(layer, -1.5, 2.0)
    np.testing.assert_array_equal(made(x).numpy(), by_integers(made, x.numpy()))
    torch.testing.assert_close(made(x[1]), made(x)[1], rtol=0, atol=0)
    assert made(x[:0]).shape == (0, *layer(x[:1]).shape[1:])


@pytest.mark.parametrize("kernel", [*KERNELS, "torch"])
def test_linear_layers_take_rows_of_any_shape(kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "reference" if kernel == "torch" else kernel)
    made = Int8Linear(nn.Linear(37, 12), 0.0, 3.0)
    x = torch.randn(2, 3, 37)
    expected = by_integers(made, x.view(6, 37, 1, 1).numpy()).reshape(2, 3, 12)
    np.testing.assert_array_equal(made(x).numpy(), expected)
    assert made(x[0, 0]).shape == (12,)


def test_the_weight_is_within_half_a_step():
    layer = nn.Conv2d(3, 4, 3)
    made = Int8Conv2d(layer, -1.0, 1.0)
    steps = layer.weight.abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((made.weight - layer.weight).abs() <= 0.501 * steps).all()


def test_states_load_into_a_network_converted_alike():
    net, x = prepared("bits")
    other, _ = prepared("bits")
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.1)
    source, target = convert(net, x), convert(other, x)
    expected = source(x)
    target(x)  # which orders its numbers
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), expected)
    assert torch.equal(copy.deepcopy(target)(x), expected)
    plain = quantize.convert(net, x[:4])
    with pytest.raises(RuntimeError, match="the state has a float weight, this layer numbers of 8 bits"):
        target.load_state_dict(plain.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*numbers"):
        plain.load_state_dict(source.state_dict())
    assert torch.equal(target(x), expected)


def test_it_exports_and_refuses_gradients():
    net, x = prepared("bits")
    converted = convert(net, x)
    exported = torch.export.export(converted, (x,)).module()
    torch.testing.assert_close(exported(x), converted(x), rtol=0, atol=1e-5)
    with pytest.raises(RuntimeError, match="have no gradient"):
        converted(x.clone().requires_grad_())


def test_a_network_of_the_zoo_and_its_report():
    x = torch.randn(8, 3, 32, 32)
    converted = convert(models.create_model("nin_xnornet", pretrained="cifar10").eval(), x)
    assert [type(layer) for layer in eight_bit_layers(converted)] == [Int8Conv2d, Int8Conv2d]
    report = quantize.conversion_report(converted)
    rows = {row.name: row for row in report}
    assert rows["features.block1.conv"].note == "a float layer in 8 bits"
    assert rows["features.block1.conv"].bytes < 192 * 75 * 2
    assert str(report.float_layers) in str(report)
    assert report.float_layers.layers == ("features.block1.conv", "features.block9.conv")


def test_a_layer_that_is_called_twice_has_the_range_of_both_calls():
    net, x = prepared("called twice")
    between = net.conv(x)
    span = max(x.max(), between.max()) - min(x.min(), between.min())
    conv, _ = eight_bit_layers(convert(net, x))
    assert float(conv.x_inverse) == pytest.approx(255 / float(span))


def test_hooks_stay():
    net, x = prepared("bits")
    seen = []
    net[0].register_forward_hook(lambda layer, args, y: seen.append(type(layer)))
    convert(net, x)
    assert set(seen) >= {Int8Conv2d}


def test_layers_of_other_forms_and_those_not_called_stay_float():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.grouped, self.reflecting = (
                nn.Conv2d(4, 4, 3, groups=2),
                nn.Conv2d(4, 4, 3, 1, 1, padding_mode="reflect"),
            )
            self.binary, self.head, self.unused = nn.Conv2d(4, 8, 3), nn.Linear(8, 10), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.binary(self.reflecting(self.grouped(x))).mean((2, 3)))

    x = torch.randn(8, 4, 9, 9)
    keep = ("grouped", "reflecting", "head", "unused")
    converted = convert(quantize.prepare(Net(), "xnor", keep_float=keep).eval(), x)
    kinds = [type(getattr(converted, name)) for name in keep]
    assert kinds == [nn.Conv2d, nn.Conv2d, Int8Linear, nn.Linear]


@pytest.mark.parametrize("labelled", [True, False])
def test_what_costs_too_much_is_refused(labelled):
    net, x, labels = with_outlier("bits")
    words = r"top-1 is 100\.00% before and \d+\.\d\d% after on" if labelled else r"[\d.]+% of the predictions change, "
    with pytest.raises(ValueError, match=f"8 bits .* are refused: {words}.* {IMAGES} images.*max_drop=0.1 "):
        convert(net, x, labels=labels if labelled else None, max_drop=None)
    labels[:4] = (labels[:4] + 1) % 10
    report = quantize.conversion_report(convert(net, x, labels=labels)).float_layers
    assert report.before == 90 > report.after


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"float_layers": "int4"}, ValueError, "unknown float_layers 'int4'"),
        ({"calibration": None}, ValueError, "float_layers='int8' needs calibration"),
        ({"calibration": torch.zeros(2, 3, 5, 5)}, ValueError, "calibration is (2, 3, 5, 5); like example_input"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, ValueError, "labels is (3,) for 40 images"),
        ({"max_drop": -1}, ValueError, "max_drop is -1"),
        ({"float_layers": "float"}, ValueError, "calibration is for float_layers='int8'"),
    ],
)
def test_arguments_that_cannot_be_used(options, error, message):
    net, x = prepared("bits")
    with pytest.raises(error, match=re.escape(message)):
        quantize.convert(net, x[:4], **{"float_layers": "int8", "calibration": x, **options})


def test_a_network_without_float_layers():
    x = torch.randn(4, 3, 9, 9)
    net = quantize.prepare(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "xnor", x, keep_float=())
    with pytest.raises(ValueError, match="has no float layers that 8 bits could hold"):
        convert(net, x)
