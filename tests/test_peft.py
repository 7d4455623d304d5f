"""Frozen layers and adapters: what is learned beside a frozen weight, LoRA, and a merge into a binary layer."""

import warnings

import pytest
import torch
from torch import nn

import quantize

X = torch.rand(6, 8, generator=torch.Generator().manual_seed(8))


class Wrapper(nn.Module):
    """As a layer of ``peft``: the frozen layer, and two small ones beside it."""

    adapter_layer_names = ("down", "up")

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.down = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.up = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})
        self.merged = False

    def forward(self, x):
        return self.base_layer(x) + self.up["default"](self.down["default"](x))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.lora_A, self.lora_B = nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 8)

    def forward(self, x):
        return self.linear(x) + self.lora_B(self.lora_A(x))


def adapted() -> nn.Sequential:
    return nn.Sequential(*(Wrapper(nn.Linear(8, 8)) for _ in range(3)), Named(), Wrapper(nn.Linear(8, 2)))


@pytest.mark.parametrize("example", [None, X], ids=["no_example", "example"])
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_what_a_frozen_layer_learns_is_frozen(scheme, example):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    model[2].requires_grad_(False)
    prepared = quantize.prepare(model, scheme, example)
    assert not any(parameter.requires_grad for parameter in prepared[2].parameters())
    assert all(parameter.requires_grad for parameter in prepared[4].parameters())
    prepared.load_state_dict(quantize.prepare(model, scheme, X).state_dict())
    assert not any(parameter.requires_grad for parameter in prepared[2].parameters())
    prepared(X).sum().backward()
    assert all(parameter.grad is None for parameter in prepared[2].parameters())


@pytest.mark.parametrize("example", [None, X], ids=["no_example", "example"])
def test_adapters_stay_float_and_are_neither_first_nor_last(example):
    plan = quantize.plan(adapted(), "xnor", example)
    assert plan.binary == ["1.base_layer", "2.base_layer", "3.linear"]
    assert plan["0.base_layer"].reason == "first layer"
    assert plan["4.base_layer"].reason == "last layer"
    for name in ("0.down.default", "1.up.default", "3.lora_A", "4.up.default"):
        assert plan[name].reason == "adapter: small, and trained beside a layer in float"
    binary = quantize.plan(adapted(), "xnor", example, overrides={"3[.]lora_.*": "bwn"})
    assert binary["3.lora_A"].scheme == "bwn"


def unload(model: nn.Sequential, place: int, merge: bool) -> None:
    wrapper = model[place]
    if merge:
        wrapper.base_layer.weight.data += wrapper.up["default"].weight @ wrapper.down["default"].weight
        wrapper.merged = True
    setattr(model, str(place), wrapper.base_layer)


def test_a_merge_into_a_binary_layer_warns():
    model = quantize.prepare(adapted(), "xnor", X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unload(model, 0, merge=True)  # a float layer
        unload(model, 1, merge=False)
    with pytest.warns(UserWarning, match=r"merged into the binary layer '2': it computes with sign\(W \+ BA\) now"):
        unload(model, 2, merge=True)


@pytest.mark.parametrize("prepare_first", [False, True])
def test_peft(prepare_first):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["1", "2"])
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    if prepare_first:
        model = peft.get_peft_model(quantize.prepare(model, "xnor", X), config)
    else:
        model = quantize.prepare(peft.get_peft_model(model, config), "xnor", X)
    binary = [name for name, m in model.named_modules() if isinstance(m, quantize.BinaryLayer)]
    assert binary == ["base_model.model.1.base_layer", "base_model.model.2.base_layer"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    model(X).sum().backward()
    with pytest.warns(UserWarning, match="adapters were merged into the binary layer '1'"):
        model.merge_and_unload()
