"""The states of converted models: whose they are, who stores them, and what users of the float layers read."""

import copy

import pytest
import safetensors.torch
import torch
from converted_models import converted, network
from torch import nn

from quantize.packed.state import decode_header


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def other_weights(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    return other


@pytest.mark.parametrize("scheme", ["xnor", "dorefa:w_bits=2"])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("inside", [True, False], ids=["part of a model", "model"])
def test_a_state_to_train_is_refused_before_anything_changes(scheme, strict, inside):
    prepared, packed, x = network(scheme)
    state = other_weights(prepared).state_dict()
    if inside:
        packed, state = nn.Sequential(packed), {f"0.{name}": value for name, value in state.items()}
    before, answer = values(packed), packed(x)
    with pytest.raises(RuntimeError, match=r"nothing was loaded into (.|\n)*has a weight to train, this layer"):
        packed.load_state_dict(state, strict=strict)
    assert_unchanged(packed, before)
    assert torch.equal(packed(x), answer)


@pytest.mark.parametrize("strict", [True, False])
def test_one_wrong_layer_is_enough_to_load_nothing(strict):
    _, packed, _ = network()
    state, before = values(packed), values(packed)
    names = [name for name in state if name.endswith("weight_bits")]
    for name in state:
        if state[name].is_floating_point():
            state[name] += 1
    state[names[-1]] = state[names[-1]][:, :-1]
    with pytest.raises(RuntimeError, match="nothing was loaded"):
        packed.load_state_dict(state, strict=strict)
    assert_unchanged(packed, before)


@pytest.mark.parametrize("scheme", ["xnor", "dorefa:w_bits=2"])
@pytest.mark.parametrize("strict", [True, False])
def test_bits_are_refused_by_a_model_that_trains(scheme, strict):
    prepared, packed, _ = network(scheme)
    with pytest.raises(RuntimeError, match="the state has bits, this layer a weight to train"):
        prepared.load_state_dict(packed.state_dict(), strict=strict)


def test_a_header_of_old_is_read():
    _, packed, x = network()
    state = values(packed)
    headers = [name for name in state if name.endswith("_extra_state")]
    assert headers
    old = {**state, **{name: decode_header(state[name]) for name in headers}}
    with torch.no_grad():
        for buffer in packed.buffers():
            buffer.zero_()
    packed.load_state_dict(old)
    assert_unchanged(packed, state)
    with pytest.raises(RuntimeError, match="its header is a list, not a tensor"):
        packed.load_state_dict({**state, headers[0]: [1]})
    with pytest.raises(RuntimeError, match="its header is not JSON"):
        packed.load_state_dict({**state, headers[0]: state[headers[0]][:-3]})


@pytest.mark.parametrize("scheme", ["xnor", "dorefa:w_bits=2", "xnorpp"])
def test_safetensors_stores_prepared_and_converted_models(scheme, tmp_path):
    prepared, packed, x = network(scheme)
    for name, model in (("prepared", prepared), ("packed", packed)):
        path = str(tmp_path / f"{name}.safetensors")
        safetensors.torch.save_model(model, path)
        loaded = other_weights(model)
        safetensors.torch.load_model(loaded, path)
        assert torch.equal(loaded(x), model(x))


LAYERS = {
    "conv": (lambda: nn.Conv2d(64, 32, (3, 5), (2, 1), (1, 2), (1, 2), groups=2), (2, 64, 9, 13)),
    "same": (lambda: nn.Conv2d(64, 32, 3, padding="same"), (2, 64, 9, 13)),
    "reflect": (lambda: nn.Conv2d(64, 32, 3, padding=(2, 1), padding_mode="reflect"), (2, 64, 9, 13)),
    "conv1d": (lambda: nn.Conv1d(64, 32, 3, 2, 1), (2, 64, 13)),
    "linear": (lambda: nn.Linear(64, 32), (2, 64)),
    "transposed": (lambda: nn.ConvTranspose2d(64, 32, 3, 2, 1, groups=2), (2, 64, 5, 5)),
}


@pytest.mark.parametrize("scheme", ["xnor", "bwn"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_users_of_the_float_layer_read(name, scheme):
    make, shape = LAYERS[name]
    layer = make()
    prepared, packed = converted(nn.Sequential(layer), torch.randn(shape), scheme, keep_float=())
    layer, found = prepared[0], packed[0]
    for attribute in set(layer.float_class.__constants__) - {"padding", "output_padding"}:
        assert getattr(found, attribute) == getattr(layer, attribute), attribute
    if hasattr(layer, "padding"):
        assert found.padding == ((1, 1) if layer.padding == "same" and scheme == "xnor" else layer.padding)
    assert found.weight.shape == layer.weight.shape
    assert (found.weight.dtype, found.weight.device) == (layer.weight.dtype, layer.weight.device)
    values, scale = layer.quantized_weight()
    torch.testing.assert_close(found.weight, layer.from_filters(values if scale is None else values * scale))
    with pytest.raises(AttributeError):
        found.weight = torch.zeros(1)
