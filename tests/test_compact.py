"""A network kept as bits that trains on: the state and its way back, for every 1-bit scheme and layer."""

import pytest
import torch
from torch import nn

import models
import quantize

INPUTS = torch.randn(8, 3, 12, 10, generator=torch.Generator().manual_seed(0))
ONE_BIT = [name for name in quantize.list_schemes() if quantize.get_scheme(name).weight_bits == 1]


class Net(nn.Module):
    """A convolution in groups, a strided and a transposed one, and linear layers, between float ends."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3, groups=2), nn.BatchNorm2d(12)),
            *(nn.Conv2d(12, 16, 1, stride=2), nn.BatchNorm2d(16), nn.ConvTranspose2d(16, 6, 3), nn.BatchNorm2d(6)),
            *(nn.Flatten(), nn.Linear(6 * 6 * 5, 24), nn.BatchNorm1d(24), nn.Linear(24, 5)),
        )

    def forward(self, x):
        return self.layers(x)


def trained(scheme: str, steps: int = 3) -> nn.Module:
    torch.manual_seed(1)
    model = quantize.prepare(Net(), scheme, INPUTS)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    quantize.set_progress(model, 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        model(INPUTS).square().mean().backward()
        optimizer.step()
    quantize.estimate_statistics(model, [INPUTS])
    return model.eval()


def fresh(scheme: str) -> nn.Module:
    torch.manual_seed(2)
    return quantize.prepare(Net(), scheme, INPUTS).eval()


@pytest.mark.parametrize("scheme", [*ONE_BIT, "xnor:center=false", "xnor:input_scale=true"])
def test_a_network_comes_back_from_its_bits(scheme):
    model = trained(scheme)
    expected = model(INPUTS)
    again = fresh(scheme)
    assert not torch.allclose(again(INPUTS), expected, rtol=0.1)
    quantize.load_compact_state(again, quantize.compact_state(model))
    torch.testing.assert_close(again(INPUTS), expected, rtol=1e-4, atol=1e-5)
    again.train()(INPUTS).sum().backward()  # and it trains on
    layers = [m for m in again.modules() if isinstance(m, quantize.BinaryLayer)]
    assert len(layers) == 4
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)


def test_a_binary_weight_takes_a_bit():
    model = trained("xnor")
    state = quantize.compact_state(model)
    for name, layer in model.named_modules():
        if isinstance(layer, quantize.BinaryLayer):
            assert state[f"{name}.weight_signs"].nbytes == -(-layer.weight.numel() // 8)
            assert f"{name}.weight" not in state


def test_making_it_leaves_the_model_alone():
    model = trained("bireal").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize.compact_state(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("signs", [[1, 1, 1, 1], [1, -1, 1, 1], [1, -1, -1, -1], [-1, 1, 1, -1]])
@pytest.mark.parametrize("size", [1e-3, 0.3, 0.5])
def test_centred_filters_have_the_given_signs_and_size(signs, size):
    """Taps with few of a sign reach the clamp at 1; one with equal signs has nothing left after the centring."""
    taps = [signs, [1, -1, 1, -1], [-1, -1, 1, 1]]
    values = torch.tensor(taps, dtype=torch.float32).t()[None, :, :, None]
    scale = torch.full((1, 1, 1, 1), size)
    scheme = quantize.get_scheme("xnor")
    found = scheme.weight(scheme.latent_weight(values, scale), None)
    assert torch.equal(found.values, values)
    torch.testing.assert_close(found.scale, scale)


@pytest.mark.parametrize(("scheme", "reason"), [("ternary", "other than"), ("dorefa:w_bits=2", "other than")])
def test_more_than_a_bit_is_refused(scheme, reason):
    with pytest.raises(ValueError, match=reason):
        quantize.compact_state(fresh(scheme))


def test_a_scheme_whose_bits_no_weight_gives_is_refused(monkeypatch):
    model = trained("xnor")
    monkeypatch.setattr(type(quantize.get_scheme("xnor")), "latent_weight", lambda self, values, scale: values * scale)
    with pytest.raises(ValueError, match=r"layer 'layers\.2' of scheme 'xnor' does not make these bits"):
        quantize.compact_state(model)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("layers.2.weight_signs"), r"no signs and scales of layer 'layers\.2'"),
        (lambda s: s.update({"layers.2.weight_signs": s["layers.2.weight_signs"][1:]}), "another network"),
        (lambda s: s.pop("layers.3.bias"), r"lacks 'layers\.3\.bias'"),
        (lambda s: s.update(more=torch.zeros(1)), "has 'more'"),
        (lambda s: s.update({"layers.3.bias": torch.zeros(5)}), r"'layers\.3\.bias' is \(5,\) in the state"),
    ],
)
def test_another_state_changes_nothing(change, reason):
    state = quantize.compact_state(trained("xnor"))
    change(state)
    model = fresh("xnor")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        quantize.load_compact_state(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bits_of_another_scheme_change_nothing():
    state = quantize.compact_state(trained("bireal"))
    model = fresh("xnor")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="are another scheme's"):
        quantize.load_compact_state(model, state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_of_the_registry():
    images = torch.randn(4, 3, 32, 32)
    models_ = [quantize.prepare(models.create_model("nin_gc_xnornet"), "xnor", images).eval() for _ in range(2)]
    quantize.load_compact_state(models_[1], quantize.compact_state(models_[0]))
    torch.testing.assert_close(models_[1](images), models_[0](images), rtol=1e-3, atol=1e-4)
