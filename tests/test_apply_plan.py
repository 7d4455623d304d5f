"""apply_plan() and Plan as data: through JSON and back, and never half applied."""

import json

import pytest
import torch
from torch import nn

import quantize

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 36, 10),
    )


def test_a_plan_read_from_json_gives_the_same_model():
    model = network()
    plan = quantize.plan(model, "xnor:center=false", X)
    read = quantize.Plan.from_list(json.loads(json.dumps(plan.to_list())))
    trained = quantize.apply_plan(model, plan)
    torch.nn.init.uniform_(trained[5].threshold)
    trained.eval()
    rebuilt = quantize.apply_plan(network(), read).eval()
    rebuilt.load_state_dict(trained.state_dict(), strict=True)
    assert repr(rebuilt) == repr(trained)
    assert torch.equal(rebuilt(X), trained(X))


@pytest.mark.parametrize(
    ("index", "replacement", "message"),
    [
        (5, nn.Conv2d(8, 5, 3), r"shape \(4, 8, 3, 3\) for '5', the model \(5, 8, 3, 3\): it is of another model"),
        (5, nn.ReLU(), "the plan binarizes '5', which is a ReLU in this model"),
        (5, quantize.BinaryConv2d(8, 4, 3), "the plan binarizes '5', which is a BinaryConv2d in this model"),
        (None, None, "the plan has a layer '5' that the model has not: it is of another model"),
    ],
    ids=["shape", "type", "binary", "missing"],
)
def test_a_plan_of_another_model_changes_nothing(index, replacement, message):
    plan = quantize.plan(network(), "xnor", X)
    other = network() if index is not None else network()[:5]
    if index is not None:
        other[index] = replacement
    types = [type(m) for m in other.modules()]
    with pytest.raises(ValueError, match=message):
        quantize.apply_plan(other, plan, inplace=True)
    assert [type(m) for m in other.modules()] == types


def test_an_error_in_prepare_changes_nothing():
    model = network()
    for options in ({"scheme": "nope"}, {"overrides": {"9": None}}, {"scheme": "xnorpp:spatial=true"}):
        with pytest.raises(ValueError, match="nope|no layer matches '9'|needs prepare's example_input"):
            quantize.prepare(model, inplace=True, **options)
        assert repr(model) == repr(network())
