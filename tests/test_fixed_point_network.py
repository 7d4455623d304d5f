"""tools/fixed_arithmetic/fixed_network.py: against a fixed-point forward in numpy, and on every network."""

import collections

import numpy as np
import pytest
import torch
from torch import nn

import models
import quantize
from models import registry
from quantize.scheme import preferred_layouts
from tools.fixed_arithmetic.fixed_formats import Format, Formats, integer_bits
from tools.fixed_arithmetic.fixed_network import decibels, fixed_network, merged_network
from training.data import Normalization

NORMALIZATION = Normalization((0.4, 0.5), (0.25, 0.3))
TOTAL = 9  # sums of products are exact in float32
INTEGER = {"image": 0, "conv": 2, "norm": 2, "linear": 3}
NAMED = {"image": (5, 0), "fc2": (12, 1), "conv1.weight": (6, 0), "conv2.scale": (7, 0), "bn1": (8, 1)}


def spread(model):
    """Batch norms with statistics, weights and biases that differ, as after training; some scales negative."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return model.eval()


@pytest.fixture
def images():
    return torch.randint(256, (6, 2, 6, 6)) / 255


@pytest.fixture
def model(images):
    layers = collections.OrderedDict(
        conv1=nn.Conv2d(2, 4, 3, padding=1),
        bn1=nn.BatchNorm2d(4),
        relu=nn.ReLU(),
        conv2=nn.Conv2d(4, 5, 3, padding=1),
        bn2=nn.BatchNorm2d(5, affine=False),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(45, 8, bias=False),
        fc2=nn.Linear(8, 3),
    )
    model = quantize.prepare(nn.Sequential(layers), "xnor", images, overrides={"fc1": "bwn"})
    assert model.conv2.threshold.detach().abs().min() > 0
    return spread(model)


# The same in numpy: no torch operation but reading the parameters.


class InNumpy:
    """Fixed-point arithmetic that notes what its rounding did, a name."""

    def __init__(self):
        self.facts = {}

    def round(self, name, x, total, integer):
        steps, limit = 2.0 ** (total - integer), 2**total - 1
        whole = np.rint(x * steps)
        rounded = np.clip(whole, -limit, limit) / steps
        ratio = 10 * np.log10(np.square(x).sum() / np.square(rounded - x).sum())
        self.facts[name] = np.mean(np.abs(whole) > limit), ratio
        return rounded

    def output(self, name, kind, x):
        return self.round(name, x, *NAMED.get(name, (TOTAL, INTEGER[kind])))

    def parameter(self, name, p):
        return self.round(name, p, *NAMED.get(name, (TOTAL, max(0, int(np.ceil(np.log2(np.abs(p).max())))))))


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def conv3x3(x, weight):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def channels(values):
    return values.reshape(-1, 1, 1)


def norm(arithmetic, name, module, x):
    mean, variance = module.running_mean.double().numpy(), module.running_var.double().numpy()
    gamma, beta = (1, 0) if module.weight is None else (module.weight.detach().double().numpy(), array(module.bias))
    scale = gamma / np.sqrt(variance + module.eps)
    scale, offset = (
        arithmetic.parameter(f"{name}.{key}", values)
        for key, values in (("weight", scale), ("bias", beta - mean * scale))
    )
    return arithmetic.output(name, "norm", x * channels(scale) + channels(offset))


def array(parameter):
    return parameter.detach().double().numpy()


def forward_in_numpy(model, images):
    """Logits, and what rounding did to each tensor: the share clipped, and the signal-to-noise ratio in dB."""
    a = InNumpy()
    mean, std = (channels(np.array(values)) for values in NORMALIZATION)
    x = a.output("image", "image", array(images))
    scale, offset = (a.parameter(f"normalization.{key}", p) for key, p in (("weight", 1 / std), ("bias", -mean / std)))
    x = a.output("normalization", "norm", x * scale + offset)
    conv1 = model.conv1
    x = conv3x3(x, a.parameter("conv1.weight", array(conv1.weight)))
    x = a.output("conv1", "conv", x + channels(a.parameter("conv1.bias", array(conv1.bias))))
    x = np.maximum(norm(a, "bn1", model.bn1, x), 0)
    conv2 = model.conv2
    centred = array(conv2.weight)
    centred = np.clip(centred - centred.mean(1, keepdims=True), -1, 1)
    alpha = channels(a.parameter("conv2.scale", np.abs(centred).mean((1, 2, 3))))
    x = sign(x - channels(a.parameter("conv2.threshold", array(conv2.threshold))))
    x = conv3x3(x, sign(centred)) * alpha + channels(a.parameter("conv2.bias", array(conv2.bias)))
    x = norm(a, "bn2", model.bn2, a.output("conv2", "conv", x))
    x = x.reshape(len(x), 5, 3, 2, 3, 2).max((3, 5)).reshape(len(x), -1)
    weight = array(model.fc1.weight)
    alpha = a.parameter("fc1.scale", np.abs(weight).mean(1))
    x = a.output("fc1", "linear", x @ sign(weight).T * alpha)
    weight, bias = (a.parameter(f"fc2.{key}", array(getattr(model.fc2, key))) for key in ("weight", "bias"))
    return a.output("fc2", "linear", x @ weight.T + bias), a.facts


@pytest.fixture
def formats():
    return Formats(TOTAL, INTEGER, {name: Format(*form) for name, form in NAMED.items()})


def test_a_whole_network_equals_numpy(model, images, formats):
    network, records = fixed_network(model, NORMALIZATION, formats)
    with torch.no_grad():
        found = torch.cat([network(images[:4]), network(images[4:])])  # records add up over batches
    expected, facts = forward_in_numpy(model, images)
    assert np.array_equal(found.numpy(), expected)
    assert len(np.unique(expected)) > 3
    assert [r.name for r in records] == [name for name in facts if "." not in name]
    for record in records:
        clipped, ratio = facts[record.name]
        assert record.clipping_rate == pytest.approx(clipped)
        assert record.snr == pytest.approx(ratio, abs=1e-3)
        own = [ratio for name, (_, ratio) in facts.items() if name.rpartition(".")[0] == record.name]
        assert record.parameters == (pytest.approx(min(own), abs=1e-2) if own else None)
    shares = [record.clipping_rate for record in records]
    assert 0 in shares
    assert max(shares) > 0.01


def test_merged_batch_norms_are_scale_and_offset_and_compute_the_same(model, images):
    network = merged_network(model, NORMALIZATION)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in NORMALIZATION)
    with torch.no_grad():
        torch.testing.assert_close(network(images), model((images - mean) / std))
        for layer in (network.normalization, network.network.bn1, network.network.bn2):
            x = torch.randn(2, len(layer.weight), 3, 3)
            torch.testing.assert_close(layer(x), x * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1))


@pytest.mark.parametrize("make", [merged_network, lambda *given: fixed_network(*given, Formats())[0]])
def test_the_model_is_left_as_it_was(model, images, make):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = model(images)
    make(model, NORMALIZATION)(images)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(model(images), before)


def test_a_layer_that_transforms_its_weight_computes_with_the_rounded_transformed_one():
    from timm.layers import StdConv2d

    model = nn.Sequential(StdConv2d(2, 3, 3, bias=True))
    network, _ = fixed_network(model, NORMALIZATION, Formats(24, {"image": 0, "conv": 4, "norm": 4, "linear": 0}))
    found = network.network[0].quantized_weight().values
    filters = model[0].weight.detach().double().numpy().reshape(3, -1)
    spread_of = np.sqrt(filters.var(1, keepdims=True) + model[0].eps)
    standardized = ((filters - filters.mean(1, keepdims=True)) / spread_of).reshape(3, 2, 3, 3)
    assert np.allclose(found.detach().numpy(), standardized, atol=1e-5)
    coarse = Formats(4, named={"0.weight": Format(3, 1)})
    found = fixed_network(model, NORMALIZATION, coarse)[0].network[0].quantized_weight().values
    assert np.array_equal(found.detach().numpy(), np.clip(np.rint(standardized * 4), -7, 7) / 4)


def test_what_multiplies_the_output_is_rounded_too():
    model = quantize.prepare(nn.Sequential(nn.Linear(7, 2)), "xnor:input_scale=true", keep_float=())
    network, _ = fixed_network(model, NORMALIZATION, Formats(6))
    x = torch.randn(5, 7)
    with torch.no_grad():
        scale = network.network[0].scheme.output_scale(x, model[0])
    assert np.array_equal(scale.numpy(), np.rint(x.abs().mean(1, keepdim=True).numpy() * 8) / 8)  # T = 6, I = 3


def test_unknown_tensors_have_close_names(model):
    for name, close in (
        ("conv2.weight", "conv1.weight"),
        ("imagee", "image"),
        ("bn3", "bn1"),
        ("fc1.scal", "fc1.scale"),
    ):
        with pytest.raises(ValueError, match=rf"the network has no tensor '{name}' .*did you mean .*'{close}'"):
            fixed_network(model, NORMALIZATION, Formats(named={name: Format(8, 1)}))


def test_a_batch_norm_without_statistics_cannot_be_merged():
    model = nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="a batch norm without statistics"):
        merged_network(model, NORMALIZATION)


def test_decibels():
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(1.0, 0.0) == float("inf")


# Every network, and every scheme.

ARCHS = sorted(name for name, entry in registry._REGISTRY.items() if entry.build.__module__.startswith("models."))
SCHEMES = sorted(name for name in quantize.list_schemes() if hasattr(quantize.schemes, name))
OPTIONS = ["xnor:input_scale=True", "xnorpp:spatial=True", "dorefa:w_bits=2", "dorefa:w_bits=32,a_bits=4"]
SMALLEST = {"resnet18_imagenet": 32, "resnet34_imagenet": 32, "resnet50_imagenet": 32, "nin_imagenet": 67}

# Each network as float or with one of the schemes in turn, one small one with all of them.
ALL = [(arch, (None, *SCHEMES)[i % (1 + len(SCHEMES))]) for i, arch in enumerate(ARCHS)]
ALL += [("resnet20", scheme) for scheme in (*SCHEMES, *OPTIONS)]


def prepared(arch, scheme, x):
    name = arch if scheme is None else f"{arch}_{scheme.partition(':')[0]}"
    options = {"width": 40} if arch == "mlp" else {}
    model = models.create_model(name, in_chans=x.shape[1], schemes=preferred_layouts(), **options)
    if scheme is not None:
        model = quantize.prepare(model, scheme, x, inplace=True)
    return spread(model)


def on_grid(x, form):
    whole = x * 2.0 ** (form.total - form.integer)
    return bool((whole == whole.round()).all() and (whole.abs() < 2**form.total).all())


@pytest.mark.parametrize(("arch", "scheme"), ALL)
def test_every_network_and_scheme(arch, scheme):
    channels, size, _ = models.resolve(arch).input_size
    x = torch.rand(2, channels, *[SMALLEST.get(arch, size)] * 2)
    model = prepared(arch, scheme, x)
    normalization = Normalization((0.5,) * channels, (0.25,) * channels)
    network, records = fixed_network(model, normalization, Formats(11))
    modules = {name.removeprefix("network."): module for name, module in network.named_modules()}
    wrong = []
    for record in records:
        modules[record.name].register_forward_hook(
            lambda _, __, y, r=record: None if on_grid(y, r.format) else wrong.append(r.name)
        )
    with torch.no_grad():
        logits = network(x)
    assert wrong == []
    assert logits.isfinite().all()
    kinds = nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm
    assert {r.name for r in records} == {n for n, m in modules.items() if isinstance(m, kinds)} | {"image"}
    assert all(r.values for r in records)
    for name, module in model.named_modules():
        if isinstance(module, quantize.BinaryLayer):
            check_weight(module, modules[name])
        else:
            for key, p in modules[name].named_parameters(recurse=False):
                assert on_grid(p, Format(11, integer_bits(p))), f"{name}.{key}"


def check_weight(layer, rounded):
    """Low-bit values are the trained layer's, scales and float weights lie on the grid."""
    trained, found = layer.quantized_weight(), rounded.quantized_weight()
    if layer.scheme.weight_bits == 32:
        assert on_grid(found.values, Format(11, integer_bits(trained.values)))
        assert not torch.equal(found.values, trained.values)
    else:
        assert torch.equal(found.values, trained.values)
    assert (found.scale is None) == (trained.scale is None)
    for values, own in ((found.scale, trained.scale), (rounded.threshold, layer.threshold), (rounded.bias, layer.bias)):
        if own is not None:
            assert on_grid(values, Format(11, integer_bits(own)))
            torch.testing.assert_close(values, own, atol=2.0 ** (integer_bits(own) - 11), rtol=0)
