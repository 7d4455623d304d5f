"""plan(): what becomes binary, why, with which threshold; every error of a bad request."""

import pytest
import torch
from small_models import Backwards
from torch import nn
from torch.nn.utils import parametrizations

import quantize
from quantize.planning.plan import find_layers

pytestmark = pytest.mark.core

LEARNED, ZERO = "learned from the input's mean", "0"


def cnn() -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 8, 3))
    model.add_module("block1", nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1)))
    model.add_module("block2", nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)))
    model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("fc", nn.Linear(8, 8))
    model.add_module("head", nn.Linear(8, 2))
    return model


INNER = ["block1.0", "block1.2", "block2.0", "block2.1", "fc"]
IMAGE = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(2))


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 2, bias)


@pytest.mark.parametrize("example", [None, IMAGE], ids=["no_example", "example"])
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_inner_layers_become_binary(scheme, example):
    plan = quantize.plan(cnn(), scheme, example)
    assert plan.binary == INNER
    assert plan.kept_float == ["stem", "head"]
    assert {row.scheme for row in plan if row.binary} == {scheme}
    assert plan["stem"].reason == "first layer"
    assert plan["head"].reason == "last layer"
    assert plan["block2.1"].shape == (8, 8, 1, 1)
    assert plan["fc"].type == "Linear"


def test_first_and_last_in_execution_order_need_an_example():
    assert quantize.plan(Backwards(), "xnor", torch.randn(2, 3)).binary == ["middle"]
    assert quantize.plan(Backwards(), "xnor", torch.randn(2, 3))["stem"].reason == "first layer"
    assert quantize.plan(Backwards(), "xnor")["head"].reason == "first layer"


def test_thresholds_are_learned_after_relu_and_not_after_batch_norm():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),  # sees a ReLU
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3),  # sees a batch norm
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 2, 1),  # the binary order: sign right after batch norm
        nn.Conv2d(2, 2, 1),
    )
    plan = quantize.plan(model, "xnor", IMAGE)
    assert [plan[name].threshold for name in ("0", "3", "5", "8")] == ["-", LEARNED, ZERO, ZERO]
    batch_norm = torch.nn.functional.batch_norm(model[0](IMAGE), None, None, training=True)
    torch.testing.assert_close(plan["3"].start, batch_norm.relu().mean((0, 2, 3)))
    assert plan["5"].start is None


def test_thresholds_of_other_kinds():
    assert quantize.plan(cnn(), "xnor")["fc"].threshold == "set by the first training batch"
    assert quantize.plan(cnn(), "react", IMAGE)["block1.0"].threshold == "learned from 0"
    assert quantize.plan(cnn(), "bwn", IMAGE)["fc"].threshold == "-"


def test_the_table():
    text = str(quantize.plan(cnn(), "xnor:center=false", IMAGE, min_fan_in=0))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "type", "weight", "becomes", "threshold", "why"]
    assert lines[2].split() == ["stem", "Conv2d", "8x3x3x3", "float", "-", "first", "layer"]
    assert lines[3].split() == ["block1.0", "Conv2d", "8x8x3x3", "xnor:center=False", "0", "scheme"]
    warned = str(quantize.plan(cnn(), "xnor:center=false", IMAGE, min_fan_in=1000)).splitlines()
    assert warned[0].split()[-1] == "warning"
    assert "fan-in" in warned[3]
    assert lines[-1] == "5 of 7 layers become binary"
    assert "(model)" in str(quantize.plan(nn.Linear(3, 2), "bnn", keep_float=()))


def test_a_plan_is_a_sequence_of_data():
    plan = quantize.plan(cnn(), "dorefa:a_bits=4", IMAGE)
    assert len(plan) == 7
    assert plan[0].name == "stem"
    assert [row.name for row in plan[:2]] == ["stem", "block1.0"]
    assert list(quantize.Plan.from_list(plan.to_list())) == list(plan)
    assert plan.to_list()[1] == {
        "name": "block1.0",
        "type": "Conv2d",
        "shape": [8, 8, 3, 3],
        "scheme": "dorefa:a_bits=4",
        "reason": "scheme",
        "threshold": "-",
        "output_size": [8, 8],
        "warning": "",
    }
    with pytest.raises(KeyError, match=r"no layer 'block1.1': did you mean .*'block1.0'"):
        plan["block1.1"]


# keep_float and overrides


@pytest.mark.parametrize(
    ("keep_float", "kept"),
    [
        ((), []),
        (("first",), ["stem"]),
        ("last", ["head"]),
        (("first", "last", "fc"), ["stem", "fc", "head"]),
        ([r"block1\..*"], ["block1.0", "block1.2"]),
        ([nn.Linear], ["fc", "head"]),
        (nn.Conv2d, ["stem", "block1.0", "block1.2", "block2.0", "block2.1"]),
    ],
    ids=str,
)
def test_keep_float(keep_float, kept):
    for example in (None, IMAGE):
        assert quantize.plan(cnn(), "xnor", example, keep_float).kept_float == kept


def test_the_order_of_precedence():
    overrides = {
        nn.Conv2d: "bwn",
        r"block1\..*": "dorefa",
        r"block\d\.0": "bnn",  # block1.0 has its scheme from the expression before
        "block2.1": None,
        "stem": "ternary",  # an exact name goes before keep_float
        r"he.*": "bnn",  # an expression does not
    }
    plan = quantize.plan(cnn(), "xnor", keep_float=("first", "last", "block2.0"), overrides=overrides)
    found = {row.name: (row.scheme, row.reason) for row in plan}
    assert found == {
        "stem": ("ternary", "override 'stem'"),
        "block1.0": ("dorefa", r"override 'block1\\..*'"),
        "block1.2": ("dorefa", r"override 'block1\\..*'"),
        "block2.0": (None, "keep_float"),
        "block2.1": (None, "override 'block2.1'"),
        "fc": ("xnor", "scheme"),
        "head": (None, "last layer"),
    }


def test_a_type_is_the_last_before_the_default_and_means_subclasses_too():
    plan = quantize.plan(cnn(), "xnor", keep_float=(), overrides={nn.modules.conv._ConvNd: "bwn"})
    assert [row.scheme for row in plan] == ["bwn"] * 5 + ["xnor"] * 2


def test_no_default_scheme_binarizes_the_overrides_alone():
    assert quantize.plan(cnn(), None, overrides={"fc": "xnor"}).binary == ["fc"]


def test_an_expression_must_match_the_whole_name():
    assert quantize.plan(cnn(), "xnor", overrides={r"block2\.\d": None}).binary == ["block1.0", "block1.2", "fc"]
    for part in ("lock2", "block", "ead"):
        with pytest.raises(ValueError, match=f"no layer matches '{part}'"):
            quantize.plan(cnn(), "xnor", overrides={part: None})


# Layers that stay float


def test_layers_that_cannot_become_binary_say_why():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        OwnForward(4, 4, 1),
        OwnConvolution(4, 4, 1),
        parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 1),
    )
    model[4].forward = lambda x: x
    plan = quantize.plan(model, "xnor", IMAGE)
    assert [row.name for row in plan] == list("0123456")  # what makes the weight of 3 is no row of its own
    plan = quantize.plan(model, "xnor")
    assert plan.binary == ["5"]
    assert "OwnForward has a forward of its own" in plan["1"].reason
    assert "OwnConvolution has a forward of its own" in plan["2"].reason
    assert plan["3"].reason == "its weight is computed by a parametrization"
    assert "Conv2d has a forward of its own" in plan["4"].reason
    assert torch.isfinite(quantize.prepare(model, "xnor", IMAGE)(IMAGE)).all()


def test_transformer_layers_keep_what_their_fused_path_reads():
    model = nn.Sequential(
        nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 2)
    )
    plan = quantize.plan(model, "xnor", torch.randn(2, 3, 8))
    assert plan.binary == ["1.self_attn.in_proj", "1.self_attn.out_proj", "2"]
    assert "fused path" in plan["1.linear1"].reason
    assert "fused path" in plan["1.linear2"].reason


def test_a_layer_that_does_not_run_stays_float():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.training_only = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            return self.c(self.b(self.a(x)))

    plan = quantize.plan(Branch(), "xnor", torch.randn(2, 4))
    assert plan.binary == ["b"]
    assert plan["training_only"].reason == "it did not run on the example input"
    with pytest.raises(ValueError, match="'training_only' cannot become bnn: it did not run on the example input"):
        quantize.plan(Branch(), "xnor", torch.randn(2, 4), overrides={"training_only": "bnn"})


def test_an_exact_name_that_cannot_become_binary_is_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), OwnForward(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="layer '1' cannot become bwn: .*OwnForward has a forward of its own"):
        quantize.plan(model, "xnor", overrides={"1": "bwn"})


def test_shared_layers_are_planned_once():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), layer, layer, nn.Linear(4, 4))
    assert list(find_layers(model)) == ["0", "1", "3"]
