"""A bad request to plan() or prepare() is one sentence: the value, the valid ones, the fix."""

import pytest
import torch
from torch import nn

import quantize


def cnn() -> nn.Sequential:
    blocks = {
        "stem": nn.Conv2d(3, 8, 3),
        "block1": nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)),
        "block2": nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)),
        "pool": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "fc": nn.Linear(8, 8),
        "head": nn.Linear(8, 2),
    }
    model = nn.Sequential()
    for name, module in blocks.items():
        model.add_module(name, module)
    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "xnorr"}, "unknown scheme 'xnorr': did you mean 'xnor'"),
        ({"scheme": "xnor:k=1"}, "scheme 'xnor' has no option 'k'"),
        ({"overrides": {"fc": "nope"}}, "unknown scheme 'nope'"),
        (
            {"overrides": {"block1.1": None}},
            "overrides: no layer matches 'block1.1'; did you mean .*'block1.2'.* valid: block1.0, b",
        ),
        ({"overrides": {"block1": None}}, r"it is a container; write 'block1\[\.\]\.\*' for the layers in it"),
        ({"overrides": {r"block(1": None}}, r"'block\(1' is neither a layer name nor a regular expression: missing \)"),
        ({"overrides": {nn.Conv3d: None}}, "overrides: no layer is a Conv3d; did you mean 'Conv2d'.* valid: Conv2d, L"),
        ({"keep_float": ["fcc"]}, "keep_float: no layer matches 'fcc'; did you mean 'fc'"),
        ({"keep_float": [nn.Conv1d]}, "keep_float: no layer is a Conv1d"),
        ({"keep_float": [nn.Module]}, "all 7 convolution and linear layers stay float .stem: keep_float; .*; [.]{3}"),
        (
            {"scheme": None},
            r"nothing to binarize: all 7 convolution and linear layers stay float .* change keep_float=",
        ),
        ({"example_input": torch.randn(2, 5, 12, 12)}, r"the model does not run on example_input, of shape \(2, 5, 12"),
        ({"scheme": "xnorpp:spatial=true"}, "needs prepare's example_input"),
    ],
)
@pytest.mark.parametrize("function", [quantize.plan, quantize.prepare], ids=["plan", "prepare"])
def test_bad_request(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(cnn(), **{"scheme": "xnor", **options})


@pytest.mark.parametrize("pattern", [3, None, nn.Linear(2, 2)])
def test_a_pattern_of_another_type_is_a_type_error(pattern):
    with pytest.raises(TypeError, match="is neither a layer name, a regular expression nor a layer class"):
        quantize.plan(cnn(), overrides={pattern: None})


def test_the_suggested_pattern_for_a_container_works():
    assert quantize.plan(cnn(), "xnor", overrides={"block1[.].*": None}).kept_float == [
        "stem",
        "block1.0",
        "block1.2",
        "head",
    ]


def test_a_model_without_layers():
    with pytest.raises(ValueError, match="nothing to binarize: the model has no convolution or linear layer"):
        quantize.plan(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


def test_a_model_with_first_and_last_only():
    with pytest.raises(ValueError, match="all 2 .* stay float .0: first layer; 1: last layer.; change keep_float="):
        quantize.plan(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))


def test_a_prepared_model():
    prepared = quantize.prepare(cnn(), "xnor")
    with pytest.raises(ValueError, match=r"layer 'block1.0' is binary already; quantize.restore\(model\) gives"):
        quantize.prepare(prepared, "bnn")


@pytest.mark.parametrize("lazy", [nn.LazyConv2d(4, 1), nn.LazyLinear(4), nn.LazyBatchNorm2d()])
def test_a_lazy_layer(lazy):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), lazy, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="layer '1' is lazy and has no shape yet; run the model once"):
        quantize.plan(model, "xnor", torch.randn(2, 3, 12, 12))
