"""What is meant for layers that train leaves converted ones alone, or refuses them; it never breaks or miscounts."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import quantize
from quantize.packed.codes.expanded import ExpandedLayer
from training.watch.health import FlipRates, measure_health

SCHEMES = ["bwn", "dorefa", "ternary", "binaryconnect:stochastic=True", "xnorpp", "irnet", "xnor:input_scale=True"]
KINDS = {
    "conv3d": (lambda: nn.Conv3d(6, 4, 3, padding=1, padding_mode="circular"), (2, 6, 4, 5, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, groups=2), (2, 6, 5, 4)),
}


def expanded(scheme: str, kind: str = "conv3d") -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """(prepared, converted, an input): one layer for which there is no kernel."""
    build, shape = KINDS[kind]
    torch.manual_seed(0)
    x = torch.randn(shape)
    prepared = quantize.prepare(nn.Sequential(build()), scheme, x, keep_float=()).eval()
    converted = quantize.convert(prepared, x)
    assert isinstance(converted[0], ExpandedLayer)
    return prepared, converted, x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_functions_for_layers_that_train_leave_it_as_it_is(scheme, kind):
    prepared, converted, x = expanded(scheme, kind)
    before, answers = copy.deepcopy(converted.state_dict()), converted(x)
    quantize.clip_latent_weights(converted, 0.01)
    quantize.clip_after_step(torch.optim.SGD([nn.Parameter(x)], lr=1.0), converted)
    quantize.use_float_weights(converted, True)
    quantize.set_progress(converted, 0.5)
    assert not any(group["params"] for group in quantize.param_groups(converted, 0.1))
    assert FlipRates(converted).update() == {}
    assert measure_health(converted, x) == {}
    assert converted.state_dict().keys() == before.keys()
    assert torch.equal(converted(x), answers)
    torch.testing.assert_close(answers, prepared(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_computes_the_same_in_training_mode(scheme):
    prepared, converted, x = expanded(scheme)
    assert torch.equal(converted.train()(x), prepared(x))


def test_a_binary_layer_is_one_that_trains():
    prepared, converted, _ = expanded("bwn")
    assert isinstance(prepared[0], quantize.BinaryLayer)
    assert not isinstance(converted[0], quantize.BinaryLayer)
    assert not isinstance(converted[0], nn.Conv3d)  # it has no weight that others could use


@pytest.mark.parametrize("way", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_compute_the_same(way, kind):
    _, converted, x = expanded("xnor", kind)
    assert torch.equal(way(converted)(x), converted(x))


def test_a_whole_model_is_saved_and_loaded():
    _, converted, x = expanded("dorefa")
    buffer = io.BytesIO()
    torch.save(converted, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), converted(x))


def test_the_size_of_a_transposed_output():
    prepared, converted, x = expanded("xnor", "transposed")
    assert torch.equal(converted[0](x, output_size=(11, 9)), prepared[0](x, output_size=(11, 9)))
    assert converted[0](x, (11, 9)).shape[2:] == (11, 9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_costs_what_the_prepared_layer_does(kind):
    prepared, converted, x = expanded("bwn", kind)
    assert quantize.summary(prepared, x).binary_macs > 0
    assert quantize.summary(converted, x).binary_macs == quantize.summary(prepared, x).binary_macs


def test_a_state_goes_back_where_no_batch_has_set_the_threshold():
    net = quantize.prepare(nn.Sequential(KINDS["conv3d"][0]()), "xnor", keep_float=()).eval()
    x = torch.randn(KINDS["conv3d"][1])
    converted = quantize.convert(net, x)
    assert torch.equal(converted(x), net(x))
    assert quantize.summary(converted, x).parameters == 0
    converted.load_state_dict(converted.state_dict())
    settled = copy.deepcopy(net).train()
    settled(x.abs())
    trained = quantize.convert(settled.eval(), x)
    converted.load_state_dict(trained.state_dict())
    assert torch.equal(converted(x), settled(x))
    assert not torch.equal(converted(x), net(x))


def test_a_frozen_threshold_that_no_batch_has_set_is_no_parameter():
    net = quantize.prepare(nn.Sequential(nn.Linear(6, 3)), "xnor", keep_float=()).requires_grad_(False)
    assert quantize.summary(net, torch.randn(2, 6)).parameters == 0


@pytest.mark.parametrize("count", [1, 7, 64, 75, 512])
@pytest.mark.parametrize(
    ("scheme", "levels"),
    [("bwn", 2), ("ternary", 4), ("dorefa:w_bits=3,a_bits=32", 8), ("dorefa:w_bits=2,a_bits=32", 4)],
)
def test_weights_come_back_exactly(scheme, levels, count):
    """Through signs of whole words, where levels are even, and code by code: for rows of any number of bits."""
    prepared = quantize.prepare(nn.Sequential(nn.Linear(count, 5)), scheme, torch.randn(2, count), keep_float=()).eval()
    packed = quantize.convert(prepared, torch.randn(2, count))
    assert packed[0].weight_levels.shape == (levels,)
    for found, expected in zip(packed[0].quantized_weight(), prepared[0].quantized_weight(), strict=True):
        assert (found is expected is None) or torch.equal(found, expected)
