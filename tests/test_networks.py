"""The networks: published counts, torchvision, a training step, layers that stay float, and bad input."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import quantize
from models import registry
from quantize.scheme import preferred_layouts


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
    weights = [p for p in on_meta(name + suffix, 10, schemes=["bwn"]).parameters() if p.dim() > 1]
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
    spec = models.resolve(name, preferred_layouts())
    arch, size = spec.arch, spec.input_size
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
    spec, (options, size) = models.resolve(name, preferred_layouts()), training_setup(name)
    model = models.create_model(name, num_classes=4, schemes=preferred_layouts(), **options)
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
