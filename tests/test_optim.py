import pytest
import torch
from torch import nn

import quantize


@pytest.fixture
def model():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )
    return quantize.prepare(net, "xnorpp", torch.rand(2, 3, 8, 8))


def test_only_matrices_and_filters_decay(model):
    decayed, free = quantize.param_groups(model, 1e-4)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"0.weight", "3.weight", "5.weight"}
    assert {names[id(p)] for p in free["params"]} == set(names.values()) - {"0.weight", "3.weight", "5.weight"}
    assert "3.gamma" in names.values()
    assert "3.threshold" in names.values()
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)


def test_a_scale_of_many_dimensions_does_not_decay():
    layer = quantize.BinaryLinear(4, 4)
    layer.grid = nn.Parameter(torch.ones(4, 4))
    assert [len(group["params"]) for group in quantize.param_groups(layer, 0.1)] == [1, 2]


def test_frozen_parameters_are_left_out(model):
    model[0].weight.requires_grad_(False)
    assert all(p is not model[0].weight for group in quantize.param_groups(model, 0.1) for p in group["params"])


def test_steps_do_not_move_what_does_not_decay(model):
    optimizer = torch.optim.SGD(quantize.param_groups(model, weight_decay=0.5), lr=0.1)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    assert torch.equal(model[3].gamma, before["3.gamma"])
    torch.testing.assert_close(model[3].weight, before["3.weight"] * (1 - 0.1 * 0.5))


def test_latent_weights_are_clipped_after_the_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    handle = quantize.clip_after_step(optimizer, model, limit=0.5)
    for p in model.parameters():
        p.grad = torch.full_like(p, -3.0)
    optimizer.step()
    assert model[3].weight.min() == model[3].weight.max() == 0.5
    assert model[0].weight.max() > 0.5  # a float layer is not clipped
    handle.remove()
    optimizer.step()
    assert model[3].weight.max() > 0.5


def test_bad_values_are_refused(model):
    with pytest.raises(ValueError, match="weight_decay is -1"):
        quantize.param_groups(model, -1)
    with pytest.raises(ValueError, match="limit is 0"):
        quantize.clip_after_step(torch.optim.SGD(model.parameters(), lr=1.0), model, 0)
