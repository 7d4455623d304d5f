"""The registry of networks, channel shuffle, and the layouts of LeNet-5 and the networks in network."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import quantize
from models import registry
from quantize.scheme import preferred_layouts

# Nine convolutions: kernel and padding by number; widths and groups by network.
NETWORKS = {
    "nin": ((192, 160, 96, 192, 192, 192, 192, 192, 10), (1,) * 9),
    "nin_gc": ((256, 256, 256, 512, 512, 512, 1024, 1024, 10), (1, 2, 2, 16, 4, 4, 32, 8, 1)),
}
POOL_AFTER = {3: nn.MaxPool2d, 6: nn.AvgPool2d}


@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 4), (6, 1), (8, 8)])
def test_channel_shuffle(channels, groups):
    x = torch.randn(2, channels, 3, 5)
    shuffled = models.ChannelShuffle(groups)(x)
    size = channels // groups
    for group in range(groups):
        for i in range(size):
            assert torch.equal(shuffled[:, i * groups + group], x[:, group * size + i])


@pytest.mark.parametrize("training", [True, False])
def test_channel_shuffle_of_channels_last(training):
    x = torch.randn(2, 12, 5, 3, requires_grad=True)
    shuffle, gradient = models.ChannelShuffle(3).train(training), torch.randn(2, 12, 5, 3)
    shuffle(x).backward(gradient)
    y = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    shuffled = shuffle(y)
    shuffled.backward(gradient)
    assert torch.equal(shuffled, shuffle(x))
    assert torch.equal(y.grad, x.grad)
    assert shuffled.is_contiguous(memory_format=torch.channels_last) == training


def test_channel_shuffle_mixes_what_the_groups_of_the_next_layer_see():
    """Groups 4 after groups 4: each group of the next layer gets channels of all four."""
    source = torch.arange(16).float().view(1, 16, 1, 1)
    groups_seen = models.ChannelShuffle(4)(source).view(4, 4) // 4
    assert groups_seen.tolist() == [[0, 1, 2, 3]] * 4


def expected_modules(name: str, layout: str) -> list[type]:
    """The leaves in order: shuffle by the previous groups -> (bn) -> conv -> (bn) -> ReLU, pools between."""
    kinds = []
    groups = NETWORKS[name][1]
    for number in range(1, 10):
        previous = groups[number - 2] if number > 1 else 1
        before = layout == "binary" and 1 < number < 9
        kinds += [models.ChannelShuffle] * (previous > 1)
        kinds += [nn.BatchNorm2d, nn.Conv2d] if before else [nn.Conv2d, nn.BatchNorm2d]
        kinds += [nn.ReLU]
        kinds += [POOL_AFTER[number]] if number in POOL_AFTER else []
    return [*kinds, nn.AdaptiveAvgPool2d]


@pytest.mark.parametrize("layout", ["float", "binary"])
@pytest.mark.parametrize("name", NETWORKS)
def test_layout_of_the_networks_in_network(name, layout):
    model = models.create_model(name if layout == "float" else f"{name}_xnornet")
    leaves = [m for m in model.modules() if not list(m.children())]
    assert [type(m) for m in leaves] == expected_modules(name, layout)

    widths, groups = NETWORKS[name]
    convolutions = [m for m in leaves if isinstance(m, nn.Conv2d)]
    kernels = (5, 1, 1, 5 if layout == "float" else 3, 1, 1, 3, 1, 1)
    found = [(m.in_channels, m.out_channels, m.kernel_size[0], m.padding[0], m.groups) for m in convolutions]
    assert found == [(i, o, k, k // 2, g) for i, o, k, g in zip((3, *widths), widths, kernels, groups, strict=False)]
    assert all(m.bias is not None and m.stride == (1, 1) for m in convolutions)
    shuffles = [m.groups for m in leaves if isinstance(m, models.ChannelShuffle)]
    assert shuffles == [g for g in groups[:-1] if g > 1]
    pools = [m for m in leaves if isinstance(m, (nn.MaxPool2d, nn.AvgPool2d))]
    assert [(m.kernel_size, m.stride, m.padding) for m in pools] == [(3, 2, 1)] * 2


def test_nin_gc_computes_its_definition():
    """The whole float network from functional calls, the shuffle by an index."""
    model = models.create_model("nin_gc").eval()
    for bn in model.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.uniform_(bn.running_mean, -0.1, 0.1)
            nn.init.uniform_(bn.running_var, 0.5, 1.5)
    state = model.state_dict()
    groups = NETWORKS["nin_gc"][1]
    x = image = torch.randn(1, 3, 32, 32)
    for i in range(9):
        block, previous = f"features.block{i + 1}", groups[i - 1] if i else 1
        n = x.shape[1] // previous
        x = x[:, [(c % previous) * n + c // previous for c in range(x.shape[1])]]
        weight = state[f"{block}.conv.weight"]
        x = F.conv2d(x, weight, state[f"{block}.conv.bias"], padding=weight.shape[-1] // 2, groups=groups[i])
        statistics = [state[f"{block}.bn.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.relu(F.batch_norm(x, *statistics))
        x = F.max_pool2d(x, 3, 2, 1) if i == 2 else F.avg_pool2d(x, 3, 2, 1) if i == 5 else x
    torch.testing.assert_close(model(image), x.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_layout_of_lenet5():
    leaves = list(models.create_model("lenet5"))
    kinds = ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d", "BatchNorm2d", "Conv2d", "ReLU", "MaxPool2d"]
    kinds += ["BatchNorm2d", "Flatten", "Linear", "ReLU", "Linear"]
    assert [type(m).__name__ for m in leaves] == kinds
    assert [tuple(m.weight.shape) for m in leaves if isinstance(m, (nn.Conv2d, nn.Linear))] == [
        (20, 1, 5, 5),
        (50, 20, 5, 5),
        (500, 800),
        (10, 500),
    ]
    assert [m.affine for m in leaves if isinstance(m, nn.BatchNorm2d)] == [False, True, True]


@pytest.mark.parametrize("name", ["lenet5_xnornet", "nin_xnornet", "nin_gc_xnornet"])
def test_a_prepared_network_trains_one_step(name):
    spec = models.resolve(name)
    x = torch.randn(4, *spec.input_size)
    model = quantize.prepare(models.create_model(name, num_classes=7), spec.scheme, x)
    binary = {n: m for n, m in model.named_modules() if isinstance(m, quantize.BinaryLayer)}
    assert len(binary) == {"lenet5_xnornet": 2}.get(name, 7)
    assert all(m.threshold is None for m in binary.values())  # batch norm first: inputs of both signs
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loss = F.cross_entropy(model(x), torch.arange(4))
    loss.backward()
    assert all(m.weight.grad.abs().sum() > 0 for m in binary.values())
    optimizer.step()
    after = F.cross_entropy(model(x), torch.arange(4))
    assert torch.isfinite(after)
    assert after != loss


@pytest.mark.parametrize("name", ["lenet5", "nin", "nin_gc_xnornet"])
def test_classes_and_channels(name):
    size = models.resolve(name).input_size[1:]
    assert models.create_model(name, num_classes=3, in_chans=2)(torch.randn(2, 2, *size)).shape == (2, 3)


def test_every_listed_name_and_every_scheme_resolves():
    for name in models.list_models():
        assert models.resolve(name).name == name
    for scheme in quantize.list_schemes():
        assert models.resolve(f"nin_gc_{scheme}", preferred_layouts()).scheme == scheme
    assert models.resolve("nin_gc_xnornet").scheme == "xnor"
    assert models.resolve("nin_gc").scheme is None


def test_timm_networks():
    model = models.create_model("timm/resnet18", num_classes=5, in_chans=1)
    assert model.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 5)
    assert models.resolve("timm/resnet18.a1_in1k").input_size is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nin_gc_xnornt", "unknown network 'nin_gc_xnornt': did you mean 'nin_gc_xnornet'.* valid: .*lenet5"),
        ("lenet", "unknown network 'lenet': did you mean 'lenet5'"),
        ("nin_nope", "unknown network 'nin_nope': .* timm/<name> gives any timm backbone.*the guide 'adding' says how"),
        ("timm/resnet188", "unknown network 'timm/resnet188': did you mean 'timm/resnet18'.* see timm.list_models"),
        ("", "unknown network ''"),
    ],
)
def test_unknown_network(name, message):
    with pytest.raises(ValueError, match=message):
        models.create_model(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0; it must be a whole number of at least 1"),
        ({"num_classes": 2.5}, "num_classes is 2.5; it must be a whole number"),
        ({"in_chans": -1}, "in_chans is -1; it must be a whole number of at least 1"),
        ({"dropout": 0.5}, "network 'nin' has no option 'dropout'; valid: none"),
    ],
)
def test_bad_option(options, message):
    with pytest.raises(ValueError, match=message):
        models.create_model("nin", **options)


def test_a_wrong_image_size_is_explained():
    with pytest.raises(ValueError, match=r"lenet5 takes images of 28x28, got an input of shape \(1, 1, 32, 32\)"):
        models.create_model("lenet5")(torch.randn(1, 1, 32, 32))


def test_a_user_registers_a_network(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @models.register_model("thimble", input_size=(1, 4, 4))
    def thimble(num_classes=10, in_chans=1, layout="float", width=3):
        return nn.Sequential(nn.Conv2d(in_chans, width, 4), nn.Flatten(), nn.Linear(width, num_classes))

    assert {"thimble", "thimble_xnornet"} <= set(models.list_models())
    binary = models.create_model("thimble_bnn", num_classes=2, width=5, schemes=preferred_layouts())
    assert binary(torch.randn(3, 1, 4, 4)).shape == (3, 2)
    with pytest.raises(ValueError, match="network 'thimble' has no option 'depth'; valid: width"):
        models.create_model("thimble", depth=2)
    with pytest.raises(ValueError, match="network name 'thimble' is taken; choose another"):
        models.register_model("thimble", input_size=(1, 4, 4))(thimble)
