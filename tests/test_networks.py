"""The networks against published counts, torchvision, numpy and their definitions."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import quantize
from models import InputDropout, RPReLU, registry
from models.registry import FIRST_AND_LAST
from models.resnet import BASIC, BinaryBlock, BiRealBlock, FloatBlock, ReActBlock

DOWNSAMPLE = r".*[.]downsample[.].*"


def on_meta(name, num_classes, **options):
    """The network without memory for its weights: shapes only."""
    with torch.device("meta"):
        return models.create_model(name, num_classes, **options).eval()


def count(parameters):
    return sum(p.numel() for p in parameters)


def macs(model, input_size):
    """Multiply-accumulates of all convolution and linear layers for one sample, from shapes."""
    total = 0

    def add(layer, _args, output):
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    model(torch.zeros(1, *input_size, device="meta"))
    return total


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("alexnet", 1000, 62_415_592),
        ("alexnet_xnornet", 1000, 62_415_592),
        ("nin", 10, 969_822),
        ("nin_gc", 10, 722_462),
        ("nin_xnornet", 10, 674_910),
        ("nin_gc_xnornet", 10, 589_854),
        ("nin_dropout", 10, 969_418),
        ("nin_dropout_xnornet", 10, 969_418),
        ("lenet5", 10, 431_220),
        ("resnet18", 10, 11_173_962),
        ("resnet18_bireal", 10, 11_173_962),
        ("resnet34", 10, 21_282_122),
        ("resnet50", 10, 23_520_842),
        ("vgg11", 10, 9_231_114),
        ("vgg13", 10, 9_416_010),
        ("vgg16", 10, 14_728_266),
        # 20 layers of 0.27 M as He et al. count them, with 1x1 convolutions on the two shortcuts.
        ("resnet20", 10, 269_722 + (16 * 32 + 64) + (32 * 64 + 128)),
    ],
)
def test_parameter_counts(name, classes, expected):
    assert count(on_meta(name, classes).parameters()) == expected


@pytest.mark.parametrize(("name", "expected"), [("cnn", 14_022_016), ("cnn_svhn", 6_397_632), ("mlp", 36_806_656)])
@pytest.mark.parametrize("suffix", ["", "_xnornet", "_bwn"])
def test_weight_counts(name, suffix, expected):
    weights = [p for p in on_meta(name + suffix, 10).parameters() if p.dim() > 1]
    assert count(weights) == expected


def test_nin_imagenet_has_the_published_weights():
    layers = [m for m in on_meta("nin_imagenet", 1000).modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 12
    assert sum(count(layer.parameters()) for layer in layers) == 7_595_176


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("alexnet", 1000, 1135),
        ("cnn", 10, 617),
        ("cnn_svhn", 10, 158),
        ("lenet5", 10, 2.293),
        ("resnet18_imagenet", 1000, 1814),
        ("resnet50_imagenet", 1000, 4089),
    ],
)
def test_multiply_accumulates(name, classes, millions):
    total = macs(on_meta(name, classes), models.resolve(name).input_size)
    assert total / 1e6 == pytest.approx(millions, rel=1e-3)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_parameters_are_named_and_shaped_as_in_torchvision(depth):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        reference = getattr(torchvision.models, f"resnet{depth}")()
    ours = on_meta(f"resnet{depth}_imagenet", 1000)
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (ours, reference)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_weights_give_torchvision_outputs(depth):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=5)
    ours = models.create_model(f"resnet{depth}_imagenet", 5)
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 65, 65)
    torch.testing.assert_close(ours(x), reference(x))


def is_ours(name: str) -> bool:
    """Not one that another test file has registered: their layouts and sizes promise nothing."""
    return registry._REGISTRY[models.resolve(name).arch].build.__module__.startswith("models.")


OURS = {name for name in models.list_models() if is_ours(name)}


@pytest.mark.parametrize("name", sorted(OURS))
def test_classes_and_channels(name):
    size = models.resolve(name).input_size[1:]
    model = on_meta(name, 7, in_chans=2)
    assert model(torch.zeros(3, 2, *size, device="meta")).shape == (3, 7)


def training_setup(name):
    """(options, input size): small where the network allows it."""
    arch, size = models.resolve(name).arch, models.resolve(name).input_size
    if arch == "mlp":
        return {"width": 48}, size
    if arch.startswith("resnet"):
        return {}, (3, 64, 64) if arch.endswith("imagenet") else (3, 16, 16)
    return {}, (3, 99, 99) if arch == "nin_imagenet" else size


# Too large for what they would add: the same code as their siblings'.
NOT_TRAINED = {name for name in models.list_models() if name.startswith(("resnet34_imagenet", "resnet50_imagenet"))}
NOT_TRAINED |= {"alexnet"}
OTHER_SCHEMES = ["resnet18_irnet", "resnet20_recu", "resnet20_xnorpp", "resnet20_dorefa", "mlp_bwn", "mlp_dorefa"]


@pytest.mark.parametrize("name", sorted({*OURS, *OTHER_SCHEMES} - NOT_TRAINED))
def test_one_training_step(name):
    torch.manual_seed(0)
    spec, (options, size) = models.resolve(name), training_setup(name)
    model = models.create_model(name, num_classes=4, **options)
    x = torch.randn(2 if spec.arch == "alexnet" else 4, *size)
    if spec.scheme:
        plan = quantize.plan(model, spec.scheme, x, spec.keep_float)
        if spec.layout == "binary":
            # No binary layer sees an input of one sign: that is what the layout is for. The sums of shortcuts
            # in "bireal" and "react" may drift to one side, and get their threshold.
            assert {row.threshold for row in plan if row.binary} <= {"-", "0"}, str(plan)
        model = quantize.apply_plan(model, plan, inplace=True)
        if quantize.get_scheme(spec.scheme).annealed:
            quantize.set_progress(model, 0.5)
    loss = F.cross_entropy(model.train()(x), torch.arange(len(x)) % 4)
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.dim() == 1 or parameter.grad.any(), key


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("resnet18_xnornet", {"conv1", "fc", *(f"layer{i}.0.downsample.0" for i in (2, 3, 4))}),
        ("resnet20_bireal", {"conv1", "fc", "layer2.0.downsample.1", "layer3.0.downsample.1"}),
        ("resnet50_xnornet", {"conv1", "fc", *(f"layer{i}.0.downsample.0" for i in (1, 2, 3, 4))}),
        ("mlp_xnornet", {"fc"}),
        ("vgg_small_xnornet", {"features.conv1_1", "fc"}),
        ("cnn_xnornet", {"layers.conv1", "layers.fc3"}),
        ("nin_imagenet_xnornet", {"features.block1_1.conv", "features.block4_3.conv"}),
        ("alexnet_xnornet", {"features.conv1", "fc3"}),
    ],
)
def test_layers_that_stay_float(name, kept):
    spec, (options, _) = models.resolve(name), training_setup(name)
    plan = quantize.plan(models.create_model(name, **options), spec.scheme, keep_float=spec.keep_float)
    assert set(plan.kept_float) == kept


# Residual blocks against their formulas.


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


# Shared layers.


def rprelu(x, shift_in, slope, shift_out):
    shifted = x - shift_in[:, None, None]
    return np.where(shifted > 0, shifted, slope[:, None, None] * shifted) + shift_out[:, None, None]


def test_rprelu_is_its_formula_and_gradient():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3, 4, 5))
    values = [rng.normal(size=3) for _ in range(3)]
    layer = RPReLU(3).double()
    parameters = layer.shift_in, layer.prelu.weight, layer.shift_out
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = torch.from_numpy(value.copy())
    y = layer(torch.from_numpy(x))
    np.testing.assert_allclose(y.detach().numpy(), rprelu(x, *values), rtol=1e-12)
    (y * torch.from_numpy(weight)).sum().backward()
    for i, parameter in enumerate(parameters):
        for channel in range(3):
            step = np.zeros((3, 3))
            step[i, channel] = 1e-6
            high = rprelu(x, *(v + s for v, s in zip(values, step, strict=True)))
            low = rprelu(x, *(v - s for v, s in zip(values, step, strict=True)))
            slope = ((high - low) * weight).sum() / 2e-6
            assert parameter.grad[channel].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_rprelu_starts_as_prelu():
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(RPReLU(3)(x), torch.where(x > 0, x, 0.25 * x))


def mask_of(dropout, x, seed):
    """What ``dropout`` keeps of ``x`` under this seed, seen through a layer that changes nothing."""
    torch.manual_seed(seed)
    return dropout(x, nn.Identity()) != 0


@pytest.mark.parametrize("p", [0.25, 0.5])
def test_input_dropout_of_a_float_layer_is_inverted_dropout(p):
    torch.manual_seed(0)
    x = torch.randn(40, 50)
    dropout, layer = InputDropout(p), nn.Linear(50, 7)
    kept = mask_of(dropout, x, seed=1)
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.05)
    torch.manual_seed(1)
    torch.testing.assert_close(dropout(x, layer), layer(x * kept / (1 - p)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dropout.eval()(x, layer), layer(x))


@pytest.mark.parametrize("scheme", sorted(set(quantize.list_schemes()) - {"irnet", "recu"}))
def test_input_dropout_drops_what_the_scheme_makes_of_the_input(scheme):
    torch.manual_seed(0)
    x = torch.randn(20, 50, requires_grad=True)
    dropout, layer = InputDropout(0.5), quantize.BinaryLinear(50, 7, scheme=scheme)
    if layer.scheme.learned_threshold:
        layer.start_threshold(torch.zeros(50))
    kept = mask_of(dropout, x, seed=1)
    torch.manual_seed(1)
    y = dropout(x, layer)
    middle = 0.5 if scheme == "dorefa" else 0.0  # DoReFa-Net's inputs are 0 and 1
    values, scale = layer.quantized_weight()
    dropped = (layer.scheme.input(x, layer) - middle) * kept / 0.5 + middle
    expected = F.linear(dropped, values if scale is None else values * scale, layer.bias)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(y)
    variables = (x, layer.weight, layer.bias)
    for actual, wanted in zip(
        torch.autograd.grad(y, variables, upstream), torch.autograd.grad(expected, variables, upstream), strict=True
    ):
        torch.testing.assert_close(actual, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("block", ["block4", "block7"])
def test_dropout_of_the_binary_nin_replaces_half_of_the_inputs_by_both_signs(block):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    model = quantize.prepare(models.create_model("nin_dropout_xnornet"), "xnor", x).train()
    seen = []
    layer = model.features.get_submodule(block).conv
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(x)
    high, low, _ = seen[0].split([4, 4, 2])
    dropped = high != low
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (high[dropped] == 1).all()
    assert (low[dropped] == -1).all()


@pytest.mark.parametrize("name", ["resnet18_bireal", "resnet20_react", "resnet18_imagenet_bireal"])
def test_first_binary_convolution_sees_both_signs(name):
    torch.manual_seed(0)
    model = models.create_model(name)
    seen = []
    model.layer1[0].conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    # Smooth as photographs are: the largest of nine independent values would hardly ever be negative.
    model(F.interpolate(torch.randn(2, 3, 8, 8), size=64, mode="bilinear"))
    assert 0.1 < (seen[0] < 0).float().mean().item() < 0.9


@pytest.mark.parametrize("p", [-0.1, 1, 1.5])
def test_dropout_out_of_range(p):
    with pytest.raises(ValueError, match=f"dropout is {p}.*at least 0 and below 1"):
        InputDropout(p)


# Names.


@pytest.mark.parametrize(
    ("name", "arch", "layout", "scheme", "keep_float"),
    [
        ("resnet18", "resnet18", "float", None, (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet18_xnornet", "resnet18", "binary", "xnor", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet18_bireal", "resnet18", "bireal", "bireal", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet18_imagenet_react", "resnet18_imagenet", "react", "react", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet20_irnet", "resnet20", "bireal", "irnet", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet34_recu", "resnet34", "bireal", "recu", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet18_xnorpp", "resnet18", "bireal", "xnorpp", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet18_bwn", "resnet18", "binary", "bwn", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("resnet50_bireal", "resnet50", "binary", "bireal", (*FIRST_AND_LAST, DOWNSAMPLE)),
        ("nin_dropout", "nin_dropout", "float", None, FIRST_AND_LAST),
        ("nin_react", "nin", "binary", "react", FIRST_AND_LAST),
        ("vgg_small_irnet", "vgg_small", "binary", "irnet", FIRST_AND_LAST),
        ("mlp_xnornet", "mlp", "binary", "xnor", ("last",)),
        ("mlp_ternary", "mlp", "weights", "ternary", ("last",)),
        ("cnn_svhn_bnn", "cnn_svhn", "binary", "bnn", FIRST_AND_LAST),
        ("timm/resnet18", "timm/resnet18", "float", None, FIRST_AND_LAST),
    ],
)
def test_what_a_name_stands_for(name, arch, layout, scheme, keep_float):
    spec = models.resolve(name)
    assert (spec.arch, spec.layout, spec.scheme, spec.keep_float) == (arch, layout, scheme, keep_float)


@pytest.mark.parametrize("scheme", quantize.list_schemes())
@pytest.mark.parametrize("arch", ["nin", "resnet18", "mlp"])
def test_every_scheme_ends_a_name(arch, scheme):
    assert models.resolve(f"{arch}_{scheme}").scheme == scheme


def test_a_scheme_of_the_user_ends_a_name_when_passed():
    assert models.resolve("resnet20_my_scheme", schemes=("my_scheme",)).layout == "binary"
    model = models.create_model("resnet20_my_scheme", schemes=("my_scheme",))
    assert isinstance(model.layer1[0], BinaryBlock)


def test_list_models_has_the_special_layouts():
    names = models.list_models()
    assert {"resnet18", "resnet18_xnornet", "resnet18_bireal", "resnet20_react", "vgg_small", "cnn_svhn"} <= set(names)
    assert not {"resnet50_bireal", "nin_react", "mlp_weights"} & set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet81", "resnet18"),
        ("resnet18_birel", "resnet18_bireal"),
        ("vgg_smal", "vgg_small"),
        ("alexnett", "alexnet"),
    ],
)
def test_unknown_names_get_close_ones(name, close):
    with pytest.raises(ValueError, match=f"unknown network '{name}': did you mean .*'{close}'.* valid: alexnet, "):
        models.create_model(name)


# Bad input.


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("alexnet", (1, 3, 224, 224), "alexnet takes images of 227x227, got an input of shape"),
        ("vgg16", (1, 3, 64, 64), "vgg16 takes images of 32x32"),
        ("vgg_small", (3, 32, 32), "vgg_small takes images of 32x32"),
        ("cnn_svhn", (1, 3, 28, 28), "cnn_svhn takes images of 32x32"),
        ("mlp", (1, 3, 28, 28), "mlp takes images of 1x28x28"),
        ("mlp", (1, 784), "mlp takes images of 1x28x28"),
        ("lenet5", (1, 1, 32, 32), "lenet5 takes images of 28x28"),
        ("nin_imagenet", (1, 3, 66, 224), "nin_imagenet takes images of 67x67 or more"),
    ],
)
def test_images_of_another_size(name, shape, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, 10)(torch.zeros(shape, device="meta"))


def test_nin_imagenet_takes_its_smallest_size():
    assert on_meta("nin_imagenet", 10)(torch.zeros(1, 3, 67, 67, device="meta")).shape == (1, 10)


@pytest.mark.parametrize("option", [{"width": 0}, {"hidden": 1.5}])
def test_mlp_sizes(option):
    with pytest.raises(ValueError, match=r"(width|hidden) is .*whole number of at least 1"):
        models.create_model("mlp", **option)


def test_options_of_networks():
    model = on_meta("mlp", 10, width=32, hidden=1)
    assert count(p for p in model.parameters() if p.dim() > 1) == 784 * 32 + 32 * 10
    with pytest.raises(ValueError, match="'resnet18' has no option 'width'; valid: none"):
        models.create_model("resnet18", width=3)
