import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize


@pytest.fixture
def layer():
    return quantize.BinaryConv2d(4, 6, 3, padding=1, scheme="xnor")


def test_float_weights_with_binary_inputs(layer):
    x = torch.randn(2, 4, 5, 5)
    signs = torch.where(x >= 0, 1.0, -1.0)
    quantize.use_float_weights(layer, True)
    torch.testing.assert_close(layer(x), F.conv2d(signs, layer.weight, layer.bias, padding=1))
    quantize.use_float_weights(layer, False)
    assert layer.quantized_weight().values.unique().tolist() == [-1, 1]


def test_float_weights_are_no_part_of_the_model(layer):
    model = nn.Sequential(layer)
    quantize.use_float_weights(model, True)
    assert set(model.state_dict()) == {"0.weight", "0.bias"}
    assert not hasattr(quantize.restore(model)[0], "float_weights")


def test_progress_outside_its_range_is_refused(layer):
    with pytest.raises(ValueError, match=r"progress is 1\.5; it must lie between 0"):
        quantize.set_progress(layer, 1.5)


def test_an_annealed_scheme_without_progress_warns_once():
    from quantize.binary.binary_layer import warn_no_progress

    warn_no_progress.cache_clear()
    model = nn.Sequential(quantize.BinaryLinear(4, 4, scheme="irnet"), quantize.BinaryLinear(4, 4, scheme="irnet"))
    with pytest.warns(UserWarning, match="'irnet' is annealed") as caught:
        model(torch.randn(2, 4))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.randn(2, 4))


def test_statistics_of_drawn_weights_are_replaced_by_those_of_the_signs_that_ship():
    from quantize.binary.binary_layer import warn_statistics

    warn_statistics.cache_clear()
    torch.manual_seed(0)
    x = torch.rand(64, 32)
    model = nn.Sequential(
        quantize.BinaryLinear(32, 16, scheme="binaryconnect:stochastic=True", bias=False), nn.BatchNorm1d(16)
    )
    for _ in range(20):
        model(x)
    model.eval()
    with pytest.warns(UserWarning, match=r"evaluates, and ships, their signs.*quantize.estimate_statistics"):
        before = model(x)
    assert before.mean(0).abs().max() > 1  # the sums of signs and those of draws have other means
    quantize.estimate_statistics(model, [x[:32], x[32:]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = model(x)
    torch.testing.assert_close(after.mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    assert not model.training
    assert model[1].momentum == 0.1
    with pytest.raises(ValueError, match="there is no batch to estimate statistics from"):
        quantize.estimate_statistics(model, [])
