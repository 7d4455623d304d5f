"""nn.MultiheadAttention with binary projections: torch's own values and names, and what prepare makes of it."""

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

import quantize
from quantize.binary.attention import SplitAttention, join, split

E, HEADS, N, L, S = 8, 2, 3, 5, 4
CAUSAL = torch.ones(L, L).triu(1).bool()
PADDING = torch.tensor([[False] * 3 + [True] * (L - 3)] * N)
CALLS = {
    "self": {},
    "weights_of_heads": {"average_attn_weights": False},
    "no_weights": {"need_weights": False},
    "mask": {"attn_mask": CAUSAL},
    "causal": {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    "mask_of_floats": {"attn_mask": torch.randn(L, L)},
    "mask_of_heads": {"attn_mask": torch.randn(N * HEADS, L, L)},
    "padding": {"key_padding_mask": PADDING},
    "both": {"attn_mask": CAUSAL, "key_padding_mask": PADDING, "need_weights": False},
    "both_of_floats": {"attn_mask": torch.randn(L, L), "key_padding_mask": torch.randn(N, L)},
}


class Block(nn.Module):
    """A transformer's block, self-attention or attention to something else."""

    def __init__(self, **options):
        super().__init__()
        self.stem, self.norm = nn.Linear(6, E), nn.LayerNorm(E)
        self.attention = nn.MultiheadAttention(E, HEADS, batch_first=True, **options)
        self.mlp, self.head = nn.Linear(E, E), nn.Linear(E, 2)

    def forward(self, x, other=None):
        x = self.stem(x)
        y = self.norm(x)
        other = y if other is None else other
        return self.head(self.mlp(x + self.attention(y, other, other, need_weights=False)[0]))


def called(attention: nn.Module, *inputs, **options) -> tuple:
    torch.manual_seed(1)
    return attention(*inputs, **options)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_split_attention_computes_what_torch_does(name, batch_first, train):
    attention = nn.MultiheadAttention(E, HEADS, batch_first=batch_first).train(train)
    nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(N, L, E)
    x = x if batch_first else x.transpose(0, 1)
    expected = attention(x, x, x, **CALLS[name])
    split(attention)
    found = attention(x, x, x, **CALLS[name])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("bias", [True, False])
def test_other_inputs_of_a_split_attention(bias):
    attention = nn.MultiheadAttention(E, HEADS, bias=bias)
    q, k, v = torch.randn(L, N, E), torch.randn(S, N, E), torch.randn(S, N, E)
    one, mask = torch.randn(L, E), torch.zeros(L).bool().index_fill(0, torch.tensor([1]), True)
    cases = [((q, k, v), {}), ((q, k, k), {}), ((one, one, one), {}), ((one, one, one), {"key_padding_mask": mask})]
    expected = [attention(*inputs, **options) for inputs, options in cases]
    split(attention)
    for (inputs, options), values in zip(cases, expected, strict=True):
        torch.testing.assert_close(attention(*inputs, **options), values)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        attention(q, k, v, is_causal=True)


def test_dropout_drops_attention_in_training_alone():
    attention = nn.MultiheadAttention(E, HEADS, dropout=0.5)
    x = torch.randn(L, N, E)
    split(attention)
    for options in ({"need_weights": False}, {}):
        assert not torch.equal(attention(x, x, x, **options)[0], attention(x, x, x, **options)[0])
    attention.eval()
    assert torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])


def test_a_split_is_undone():
    attention = nn.MultiheadAttention(E, HEADS)
    names, parameters = list(vars(attention)), list(attention.parameters())
    split(attention)
    assert [id(p) for p in attention.parameters()] == [id(p) for p in parameters]
    join(attention)
    assert type(attention) is nn.MultiheadAttention
    assert list(vars(attention)) == names
    assert list(attention._modules) == ["out_proj"]


X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("example", [None, X], ids=["no_example", "example"])
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_both_projections_become_binary(scheme, example):
    model = Block()
    plan = quantize.plan(model, scheme, example)
    assert plan.binary == ["attention.in_proj", "attention.out_proj", "mlp"]
    assert plan["attention.in_proj"].shape == (3 * E, E)
    assert type(model.attention) is nn.MultiheadAttention
    prepared = quantize.prepare(model, scheme, example)
    assert type(model.attention) is nn.MultiheadAttention
    quantize.set_progress(prepared, 0.5)
    assert prepared.state_dict().keys() >= model.state_dict().keys()
    prepared.load_state_dict(model.state_dict(), strict=True)
    prepared(X).square().sum().backward()
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight"):
        assert prepared.attention.get_parameter(name).grad.abs().sum() > 0
    prepared.eval()
    for copied in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert torch.equal(copied(X), prepared(X))
        with torch.no_grad():
            copied.attention.in_proj_weight.neg_()
        assert not torch.equal(copied(X), prepared(X))
    restored = quantize.restore(prepared)
    assert type(restored.attention) is nn.MultiheadAttention
    assert vars(restored.attention).keys() == vars(model.attention).keys()
    torch.testing.assert_close(restored.eval()(X), model.eval()(X))


@pytest.mark.parametrize("inplace", [False, True])
def test_an_attention_that_stays_float_is_torchs_own(inplace):
    model = Block().eval()
    expected = model.attention(X[..., :1].expand(-1, -1, E), *[X[..., :1].expand(-1, -1, E)] * 2)
    prepared = quantize.prepare(model, "xnor", X, overrides={"attention[.].*": None}, inplace=inplace)
    assert type(prepared.attention) is nn.MultiheadAttention
    found = prepared.attention(X[..., :1].expand(-1, -1, E), *[X[..., :1].expand(-1, -1, E)] * 2)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    half = quantize.prepare(Block(), "xnor", X, overrides={"attention.in_proj": None})
    assert type(half.attention) is SplitAttention
    half(X).sum().backward()
    assert half.attention.in_proj_weight.grad is not None
    quantize.summary(half, X)
    quantize.convert(half, X)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 3, "vdim": 3}])
def test_attentions_with_more_to_them_stay_float(options):
    plan = quantize.plan(Block(**options), "xnor")
    assert plan.binary == ["mlp"]
    assert plan["attention.out_proj"].reason == "nn.MultiheadAttention uses its weight without calling it"


def test_a_plan_that_fails_leaves_the_attention_whole():
    model = Block()
    with pytest.raises(ValueError, match="does not run"):
        quantize.plan(model, "xnor", X[..., :2])
    plan = quantize.plan(model, "xnor", X)
    model.mlp = nn.Linear(3, 3)
    for inplace in (False, True):
        with pytest.raises(ValueError, match="the plan has shape"):
            quantize.apply_plan(model, plan, inplace=inplace)
        assert type(model.attention) is nn.MultiheadAttention


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("format", ["packed", "standard", "int8"])
def test_it_converts_and_exports(cross, format, tmp_path):
    example = (X, torch.randn(4, 3, E)) if cross else (X,)
    prepared = quantize.prepare(Block(), "xnor", example, keep_float=("stem", "head"))
    prepared(*example).sum().backward()
    packed = quantize.convert(prepared, example)
    assert type(packed.attention.in_proj).__name__ == "PackedLinear"
    assert not [name for name, _ in packed.attention.named_parameters() if name.startswith("in_proj_")]
    with torch.no_grad():
        torch.testing.assert_close(packed(*example), prepared.eval()(*example))
    report = quantize.export_onnx(prepared, tmp_path / "net.onnx", example, format=format)
    assert report.parity.difference < 1e-5
    assert type(prepared.attention.in_proj).__name__ == "BinaryInProjection"


def test_its_cost():
    model = Block()
    floating, binary = quantize.summary(model, X), quantize.summary(quantize.prepare(model, "bwn", X), X)
    assert binary.float_bytes == floating.float_bytes
    assert binary.binary_macs == 5 * (4 * E * E + E * E)
    assert binary.packed_bytes < binary.float_bytes / 2


def test_an_encoder_takes_no_way_around_the_projections():
    layer = nn.TransformerEncoderLayer(E, HEADS, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(6, E), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(E, 2))
    prepared = quantize.prepare(model, "xnor", X)
    expected = prepared(X)
    assert any(isinstance(module, SplitAttention) for module in prepared.modules())
    with torch.no_grad():
        torch.testing.assert_close(prepared.eval()(X), expected.detach())


def test_a_model_without_values_and_one_that_moves():
    with torch.device("meta"):
        model = Block()
    prepared = quantize.prepare(model, "bnn").to_empty(device="cpu")
    filled = quantize.prepare(Block(), "bnn")
    prepared.load_state_dict(filled.state_dict())
    assert torch.equal(prepared.train()(X), filled.train()(X))
    assert prepared.double()(X.double()).dtype == torch.float64


def test_most_of_a_vision_transformer_is_binary():
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=64, mlp_dim=128, num_classes=10
    )
    plan = quantize.plan(model, "xnor", torch.randn(2, 3, 32, 32))
    assert plan.kept_float == ["conv_proj", "heads.head"]
    weights = sum(p.numel() for p in model.encoder.layers.parameters() if p.dim() == 2)
    binary = [row for row in plan if row.binary]
    assert sum(row.shape[0] * row.shape[1] for row in binary) == weights
