"""Weights that a model multiplies by without calling a layer, or uses twice: float, with the reason."""

import pytest
import torch
from small_models import Functional
from torch import nn
from torch.nn import functional as F

import quantize


class RawProduct(nn.Module):
    """Two matrices, one of them hidden in a slice and a transposition; a table that is only added."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(12, 8))
        self.einsum = nn.Parameter(torch.randn(8, 8))
        self.position = nn.Parameter(torch.randn(5, 8))

    def forward(self, x):
        return torch.einsum("nlc,cd->nld", (x + self.position) @ self.matrix[:8].T, self.einsum)


def attention_model() -> nn.Sequential:
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    return nn.Sequential(nn.Linear(8, 8), SelfAttention(8, 2, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 2))


def recurrent_model() -> nn.Sequential:
    recurrent = nn.Sequential(nn.LSTM(8, 8, batch_first=True), Functional(lambda x: x[0]))
    return nn.Sequential(nn.Linear(8, 8), recurrent, nn.Linear(8, 8), nn.Linear(8, 2))


def bilinear_model() -> nn.Sequential:
    class Squared(nn.Bilinear):
        def forward(self, x):
            return super().forward(x, x)

    return nn.Sequential(nn.Linear(8, 8), Squared(8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 2))


@pytest.mark.parametrize("example", [None, torch.randn(2, 5, 8)], ids=["no_example", "example"])
@pytest.mark.parametrize(
    ("build", "weights", "kept"),
    [
        (attention_model, ["1.in_proj_weight"], ["0", "1.in_proj_weight", "1.out_proj", "3"]),
        (recurrent_model, ["1.0.weight_ih_l0", "1.0.weight_hh_l0"], ["0", "1.0.weight_ih_l0", "1.0.weight_hh_l0", "3"]),
        (bilinear_model, ["1.weight"], ["0", "1.weight", "3"]),
    ],
)
def test_weights_of_other_modules_are_float_with_the_reason(build, weights, kept, example):
    model = build()
    plan = quantize.plan(model, "xnor", example)
    assert plan.binary == ["2"]
    assert plan.kept_float == kept
    for name in weights:
        assert plan[name].reason.endswith("uses it without a layer that could be binary")
        assert plan[name].shape == tuple(model.get_parameter(name).shape)
    assert list(quantize.Plan.from_list(plan.to_list())) == list(plan)
    x = torch.randn(2, 5, 8)
    assert torch.isfinite(quantize.apply_plan(model, plan)(x)).all()


def test_a_parametrized_matrix_of_no_layer_is_reported():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(8, 8))

        def forward(self, x):
            return x @ self.matrix

    gate = nn.utils.parametrizations.weight_norm(Gate(), "matrix")
    plan = quantize.plan(
        nn.Sequential(nn.Linear(8, 8), gate, nn.Linear(8, 8), nn.Linear(8, 2)), "xnor", torch.randn(5, 8)
    )
    assert plan.binary == ["2"]
    assert "1.parametrizations.matrix.original1" in plan.kept_float


def test_raw_parameters_are_reported_where_they_are_multiplied():
    model = nn.Sequential(nn.Linear(8, 8), RawProduct(), nn.Linear(8, 8), nn.Linear(8, 2))
    plan = quantize.plan(model, "xnor", torch.randn(2, 5, 8))
    assert [row.name for row in plan] == ["0", "1.matrix", "1.einsum", "2", "3"]
    assert plan["1.matrix"].reason == "RawProduct uses it without a layer that could be binary"


def test_a_recurrent_network_has_no_first_layer_behind_its_lstm():
    layers = [nn.Linear(8, size) for size in (8, 8, 2)]
    model = nn.Sequential(nn.LSTM(8, 8), Functional(lambda x: x[0]), *layers)
    assert quantize.plan(model, "xnor", torch.randn(5, 2, 8)).binary == ["2", "3"]


class QueryOnly(nn.Module):
    """Uses the weight of a layer that it also calls, or does not call at all, as Swin and BEiT do."""

    def __init__(self, called: bool):
        super().__init__()
        self.called, self.qkv = called, nn.Linear(8, 8)

    def forward(self, x):
        y = F.linear(x, self.qkv.weight)
        return y + self.qkv(x) if self.called else y


@pytest.mark.parametrize(("called", "ending"), [(False, "without calling it"), (True, "without calling it, too")])
def test_a_weight_that_is_used_outside_its_layer_stays_float(called, ending):
    model = nn.Sequential(nn.Linear(8, 8), QueryOnly(called), nn.Linear(8, 8), nn.Linear(8, 2))
    plan = quantize.plan(model, "xnor", torch.randn(2, 8))
    assert plan["1.qkv"].reason == f"its weight is used {ending}"
    assert plan.binary == ["2"]
    with pytest.raises(ValueError, match="layer '1.qkv' cannot become xnor: its weight is used without calling it"):
        quantize.plan(model, "xnor", torch.randn(2, 8), overrides={"1.qkv": "xnor"})


def test_a_learned_query_is_an_input_and_no_weight():
    class Pooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.q, self.kv = nn.Parameter(torch.randn(1, 8)), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            keys = self.kv(x)
            return F.scaled_dot_product_attention(self.q(self.query).expand(len(x), 1, 8), keys, keys)

    model = nn.Sequential(nn.Linear(8, 8), Pooling(), nn.Linear(8, 2))
    assert quantize.plan(model, "xnor", torch.randn(2, 5, 8)).binary == ["1.q", "1.kv"]


def test_a_tied_embedding_keeps_its_layer_float():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.a, self.b = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 50)
            self.head.weight = self.tokens.weight

        def forward(self, ids):
            return self.head(self.b(self.a(self.tokens(ids))))

    ids = torch.randint(50, (2, 5))
    for example in (None, ids):
        plan = quantize.plan(Language(), "xnor", example, keep_float=())
        assert plan.binary == ["a", "b"]
        assert plan["head"].reason == "its weight is also that of 'tokens' (Embedding)"


def test_tied_layers_are_binary_together_or_not_at_all():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    model[1].weight = model[2].weight
    assert quantize.plan(model, "xnor").binary == ["1", "2"]
    plan = quantize.plan(model, "xnor", keep_float=("2",))
    assert plan.binary == ["0", "3"]
    assert plan["1"].reason == "it shares its weight with '2', which stays float"
    with pytest.raises(ValueError, match="layer '1' cannot become bwn: it shares its weight with '2'"):
        quantize.plan(model, "xnor", keep_float=("2",), overrides={"1": "bwn"})
