"""What the names of networks stand for."""

import pytest

import models
import quantize
from models.registry import FIRST_AND_LAST
from models.resnet import BinaryBlock
from quantize.scheme import preferred_layouts

DOWNSAMPLE = r".*[.]downsample[.].*"


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
        ("vgg11_bn", "vgg11", "float", None, FIRST_AND_LAST),
        ("vgg16_bn_xnornet", "vgg16", "binary", "xnor", FIRST_AND_LAST),
        ("timm/resnet18", "timm/resnet18", "float", None, FIRST_AND_LAST),
    ],
)
def test_what_a_name_stands_for(name, arch, layout, scheme, keep_float):
    spec = models.resolve(name, preferred_layouts())
    assert (spec.arch, spec.layout, spec.scheme, spec.keep_float) == (arch, layout, scheme, keep_float)


@pytest.mark.parametrize("scheme", quantize.list_schemes())
@pytest.mark.parametrize("arch", ["nin", "resnet18", "mlp"])
def test_every_scheme_ends_a_name(arch, scheme):
    assert models.resolve(f"{arch}_{scheme}", preferred_layouts()).scheme == scheme


def test_a_scheme_of_the_user_ends_a_name_when_passed():
    assert models.resolve("resnet20_my_scheme", schemes=("my_scheme",)).layout == "binary"
    model = models.create_model("resnet20_my_scheme", schemes=("my_scheme",))
    assert isinstance(model.layer1[0], BinaryBlock)


def test_list_models_has_the_special_layouts():
    names = models.list_models()
    assert {"resnet18", "resnet18_xnornet", "resnet18_bireal", "resnet20_react", "vgg_small", "cnn_svhn"} <= set(names)
    assert not {"resnet50_bireal", "nin_react", "mlp_weights"} & set(names)
    assert len(names) == len(set(names))


def test_published_names_are_the_networks_own():
    for name in ("vgg11", "vgg13", "vgg16"):
        published, own = models.create_model(f"{name}_bn"), models.create_model(name)
        assert [p.shape for p in published.parameters()] == [p.shape for p in own.parameters()]
        assert f"{name}_bn" not in models.list_models()
    with pytest.raises(ValueError, match="network name 'vgg11_bn' is taken"):
        models.register_model("vgg11_bn", (3, 32, 32))(None)
    with pytest.raises(ValueError, match="network name 'vgg11' is taken"):
        models.register_model("another", (3, 32, 32), aliases=("vgg11",))(None)


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
