"""Layers of the package ``transformers``: Conv1D, whose weight is (in, out), and experts in one tensor."""

import copy
import pickle

import pytest
import torch
from torch import nn

import quantize
from quantize.binary.transposed import BinaryTransposedLinear

X = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2))


class Conv1D(nn.Module):
    """As in ``transformers.pytorch_utils``."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight).view(*x.shape[:-1], self.nf)


@pytest.fixture
def conv1d(monkeypatch) -> type:
    """The class under the name that it has in the package."""
    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    return Conv1D


def network(kind: type, transpose: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [kind(12, 6), kind(8, 12), kind(10, 8), kind(2, 10)]
    if transpose:
        return nn.Sequential(*layers)
    twins = [nn.Linear(layer.nx, layer.nf) for layer in layers]
    for twin, layer in zip(twins, layers, strict=True):
        twin.weight.data, twin.bias.data = layer.weight.data.t().clone(), layer.bias.data
    return nn.Sequential(*twins)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("example", [None, X], ids=["no_example", "example"])
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_conv1d_is_a_linear_layer_with_its_weight_transposed(conv1d, scheme, example):
    model = network(conv1d, True)
    plan = quantize.plan(model, scheme, example)
    assert plan.binary == ["1", "2"]
    assert plan["1"].shape == (12, 8)
    prepared, twin = quantize.prepare(model, scheme, example), quantize.prepare(network(conv1d, False), scheme, example)
    assert type(prepared[1]) is BinaryTransposedLinear
    assert prepared.state_dict().keys() >= model.state_dict().keys()
    for network_ in (prepared, twin):
        quantize.set_progress(network_, 0.5)
        network_(X).square().sum().backward()
    assert_near(prepared(X), twin(X))
    assert_near(prepared[1].weight.grad, twin[1].weight.grad.t())
    prepared.eval(), twin.eval()
    assert_near(copy.deepcopy(prepared)(X), twin(X))
    costs, expected = quantize.summary(prepared, X), quantize.summary(twin, X)
    assert (costs.macs, costs.binary_macs, costs.packed_bytes) == (
        expected.macs,
        expected.binary_macs,
        expected.packed_bytes,
    )
    with torch.no_grad():
        packed = quantize.convert(prepared, X)
        assert_near(packed(X), prepared(X))
    assert [type(layer) for layer in packed][1:3] == [type(layer) for layer in quantize.convert(twin, X)][1:3]
    restored = quantize.restore(prepared)
    assert type(restored[1]) is conv1d
    assert torch.equal(restored[1].weight, model[1].weight)


def test_conv1d_is_exported(conv1d, tmp_path):
    prepared = quantize.prepare(network(conv1d, True), "xnor", X)
    for format in ("packed", "standard", "int8"):
        report = quantize.export_onnx(prepared, tmp_path / "net.onnx", X, format=format)
        assert report.parity.difference < 1e-5
    pickle.dumps(prepared[1].adapter)


def test_a_subclass_of_conv1d_with_a_forward_of_its_own_stays_float(conv1d):
    class Doubled(conv1d):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(conv1d(8, 6), Doubled(8, 8), conv1d(8, 8), conv1d(2, 8))
    plan = quantize.plan(model, "xnor")
    assert plan.binary == ["2"]
    assert "a forward of its own" in plan["1"].reason


def test_a_new_layer_is_a_binary_linear():
    with pytest.raises(TypeError, match="a new layer is a quantize.BinaryLinear"):
        BinaryTransposedLinear(4, 4)


class Experts(nn.Module):
    """A mixture's, as ``transformers`` has them."""

    def __init__(self):
        super().__init__()
        self.num_experts = 4
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 8)), nn.Parameter(torch.randn(4, 8, 16))

    def forward(self, x):
        return sum(nn.functional.linear(nn.functional.linear(x, self.up[i]), self.down[i]) for i in range(4))


@pytest.mark.parametrize("example", [None, torch.randn(3, 8)], ids=["no_example", "example"])
def test_experts_in_one_tensor_are_reported_with_their_share(example):
    model = nn.Sequential(nn.Linear(8, 8), Experts(), nn.Linear(8, 8), nn.Linear(8, 2))
    plan = quantize.plan(model, "xnor", example)
    assert plan.binary == ["2"]
    share = 4 * 16 * 8 / sum(p.numel() for p in model.parameters())
    for name in ("1.up", "1.down"):
        assert plan[name].reason == (
            f"the 4 experts of Experts in one tensor, {share:.0%} of all parameters, and no layers"
        )


def test_gpt2(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model, batch = transformers.GPT2LMHeadModel(config), {"input_ids": torch.randint(64, (4, 8))}
    prepared = quantize.prepare(model, "xnor", batch).train()
    binary = [layer for layer in prepared.modules() if isinstance(layer, quantize.BinaryLayer)]
    assert len(binary) == 7
    optimizer = torch.optim.Adam(prepared.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = prepared(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    prepared.eval()
    packed = quantize.convert(prepared, batch)
    with torch.no_grad():
        torch.testing.assert_close(packed(**batch).logits, prepared(**batch).logits)
    assert quantize.export_onnx(prepared, tmp_path / "gpt2.onnx", batch).parity.difference < 1e-4
    assert type(quantize.restore(prepared).transformer.h[1].attn.c_attn) is transformers.pytorch_utils.Conv1D


# Whole models of the package, small and random.


def encoder_decoder(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = torch.randint(3, 99, (2, 5))
    if name == "whisper":
        heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        sizes = {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
        }
        lengths = {"num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 12, "vocab_size": 99}
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        config = transformers.WhisperConfig(**heads, **sizes, **lengths, **tokens, use_cache=False)
        model, inputs = transformers.WhisperForConditionalGeneration(config), {"input_features": torch.randn(2, 16, 40)}
    else:
        options = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if name == "t5 v1.1" else {}
        sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 99}
        config = transformers.T5Config(**sizes, **options, decoder_start_token_id=0, use_cache=False)
        model, inputs = transformers.T5ForConditionalGeneration(config), {"input_ids": torch.randint(3, 99, (2, 7))}
    return model.eval(), {**inputs, "decoder_input_ids": words}


@pytest.mark.parametrize("name", ["t5", "t5 v1.1", "whisper"])
def test_models_that_read_their_layers_weights_convert_and_export(name, tmp_path):
    """T5 asks for the type of a weight, Whisper for the stride of a convolution."""
    model, inputs = encoder_decoder(name)
    prepared = quantize.prepare(model, "xnor", inputs)
    packed = quantize.convert(prepared, inputs)
    assert torch.equal(packed(**inputs).logits, prepared(**inputs).logits)
    report = quantize.export_onnx(prepared, tmp_path / "model.onnx", inputs)
    assert report.parity.difference < 1e-5


@pytest.mark.parametrize("form", ["prepared", "converted"])
def test_models_are_saved_and_loaded_as_transformers_does(form, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model, inputs = encoder_decoder("t5")
    first = quantize.prepare(model, "xnor", inputs)
    first = first if form == "prepared" else quantize.convert(first, inputs)
    first.save_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    again = type(model).from_pretrained(tmp_path).eval() if form == "prepared" else model
    second = quantize.prepare(again, "xnor", inputs)
    second = second if form == "prepared" else quantize.convert(second, inputs)
    safetensors.load_model(second, tmp_path / "model.safetensors")
    assert torch.equal(second(**inputs).logits, first(**inputs).logits)
