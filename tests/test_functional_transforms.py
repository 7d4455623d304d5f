"""torch.func on prepared models: functional_call under grad and vmap, in training and in evaluation."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import quantize

SCHEMES = [*quantize.list_schemes(), "xnor:input_scale=True", "dorefa:w_bits=2"]


def linear_network() -> tuple[nn.Module, torch.Tensor]:
    layers = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    return nn.Sequential(*layers), torch.randn(6, 1, 4)


def convolutional_network() -> tuple[nn.Module, torch.Tensor]:
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)
    return nn.Sequential(*layers), torch.randn(6, 1, 3, 8, 8)


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def train(request) -> bool:
    return request.param


@pytest.fixture(params=[linear_network, convolutional_network])
def network(request):
    return request.param


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradients_of_single_samples_are_those_of_backward(scheme, network, train):
    model, x = network()
    model = quantize.prepare(model, scheme, x.flatten(0, 1), keep_float=("first",)).train(train)
    quantize.set_progress(model, 0.5)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, sample):
        return functional_call(model, parameters, (sample,)).square().sum()

    found = vmap(grad(loss), (None, 0))(parameters, x)
    single = grad(loss)(parameters, x[0])
    for i, sample in enumerate(x):
        model.zero_grad()
        model(sample).square().sum().backward()
        for name, parameter in model.named_parameters():
            close = {"rtol": 1e-4, "atol": 1e-5 * max(1.0, float(parameter.grad.abs().max()))}
            torch.testing.assert_close(found[name][i], parameter.grad, **close)
            if i == 0:
                torch.testing.assert_close(single[name], parameter.grad, **close)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_ensemble_in_one_call(scheme, network, train):
    model, x = network()
    models = [quantize.prepare(model, scheme, x.flatten(0, 1)).train(train) for _ in range(2)]
    with torch.no_grad():
        models[1][2].weight.mul_(torch.randn_like(models[1][2].weight))
    for one in models:
        quantize.set_progress(one, 0.5)
    names = [name for name, _ in models[0].named_parameters()]
    state = {name: torch.stack([m.get_parameter(name).detach() for m in models]) for name in names}
    found = vmap(lambda parameters: functional_call(models[0], parameters, (x[0],)))(state)
    torch.testing.assert_close(found, torch.stack([m(x[0]) for m in models]), rtol=1e-4, atol=1e-5)


def test_a_gradient_of_a_gradient(network):
    model, x = network()
    model = quantize.prepare(model, "xnor", x.flatten(0, 1))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def penalty(x):
        gradients = grad(lambda p: functional_call(model, p, (x,)).square().sum())(parameters)
        return sum(g.square().sum() for g in gradients.values())

    sample = x[0].clone().requires_grad_()
    loss = model(sample).square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    expected = torch.autograd.grad(sum(g.square().sum() for g in gradients), sample)[0]
    torch.testing.assert_close(grad(penalty)(x[0]), expected, rtol=1e-4, atol=1e-4)


def test_signs_drawn_at_random_need_the_randomness_of_vmap():
    model, x = linear_network()
    model = quantize.prepare(model, "binaryconnect:stochastic=True", x.flatten(0, 1))
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(model)(x)
    assert vmap(model, randomness="different")(x).shape == (6, 1, 2)


def test_a_pending_threshold_is_not_set_on_a_copy_of_it():
    model, x = linear_network()
    model = quantize.prepare(model, "xnor")
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="give quantize.prepare an example_input, or first call the model itself"):
        functional_call(model, parameters, (x[0],))
    assert model[2].threshold_pending
    model(x[0])
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert torch.equal(functional_call(model, parameters, (x[0],)), model(x[0]))
