"""Networks that people have: a binary layer behind every kind of activation, and stock models as a whole."""

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from small_models import Functional
from torch import nn
from torch.nn import functional as F

import quantize
from quantize.binary.threshold import channel_sums, threshold_start

pytestmark = pytest.mark.core

LEARNED, ZERO = "learned from the input's mean", "0"


# Signs that say nothing


def saturating(x: torch.Tensor) -> torch.Tensor:
    return x * 40  # as a trained batch norm with a large gain: most values are in the flat parts of Hardswish


ACTIVATIONS = {
    "relu": (nn.ReLU(), LEARNED),
    "relu_functional": (Functional(F.relu), LEARNED),
    "relu6": (nn.ReLU6(), LEARNED),
    "relu_in_place": (nn.ReLU(inplace=True), LEARNED),
    "softplus": (nn.Softplus(), LEARNED),
    "sigmoid": (nn.Sigmoid(), LEARNED),
    "sigmoid_functional": (Functional(torch.sigmoid), LEARNED),
    "hardsigmoid": (nn.Hardsigmoid(), LEARNED),
    "softmax": (nn.Softmax(1), LEARNED),
    "log_softmax": (nn.LogSoftmax(1), LEARNED),  # never positive
    "max_pool_of_relu": (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), LEARNED),
    "avg_pool_of_relu": (Functional(lambda x: F.avg_pool2d(x.relu(), 3, padding=1)), LEARNED),
    "max_pool": (nn.MaxPool2d(3), LEARNED),  # the largest of 9 signed values is almost never negative
    "square": (Functional(torch.square), LEARNED),
    "hardswish_saturated": (nn.Sequential(Functional(saturating), nn.Hardswish()), LEARNED),
    "hardswish_saturated_functional": (Functional(lambda x: F.hardswish(saturating(x))), LEARNED),
    "hardswish": (nn.Hardswish(), ZERO),
    "gelu": (nn.GELU(), ZERO),
    "silu": (Functional(F.silu), ZERO),
    "leaky_relu": (nn.LeakyReLU(), ZERO),
    "elu": (nn.ELU(), ZERO),
    "tanh": (nn.Tanh(), ZERO),
    "avg_pool": (nn.AvgPool2d(3), ZERO),
    "none": (nn.Identity(), ZERO),
}
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_layer_behind_an_activation_compares_with_zero_or_learns(name):
    activation, threshold = ACTIVATIONS[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    row = quantize.plan(model, "xnor", IMAGES)["3"]
    assert row.threshold == threshold
    if threshold == LEARNED:
        values = model[:3](IMAGES)
        torch.testing.assert_close(row.start, values.mean((0, 2, 3)).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_first_training_batch_decides_as_the_example_does(name):
    activation, _ = ACTIVATIONS[name]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1))
    seen = quantize.prepare(model, "xnor", IMAGES)[3]
    pending = quantize.prepare(model, "xnor")
    pending(IMAGES)
    start = torch.zeros(8) if seen.threshold is None else seen.threshold
    torch.testing.assert_close(pending[3].threshold.detach(), start.detach())


def test_each_channel_has_its_own_threshold():
    """A decoder that concatenates: half of its channels behind a ReLU."""
    x = torch.randn(4, 6, 8, 8)
    x[:, :3].relu_()
    start = threshold_start(channel_sums(x, -3))
    torch.testing.assert_close(start, torch.cat([x[:, :3].mean((0, 2, 3)), torch.zeros(3)]))


def test_few_values_do_not_make_a_sign_constant():
    signed = torch.randn(4, 1000)
    assert (signed < 0).all(0).any()
    assert (signed > 0).all(0).any()
    assert threshold_start(channel_sums(signed, -1)).count_nonzero() == 0
    assert threshold_start(channel_sums(signed.relu(), -1)).count_nonzero() > 900


# Whole models, a sample of what tools/sweep_models.py runs

SAMPLE = {
    "torchvision/mobilenet_v3_small": 64,
    "torchvision/shufflenet_v2_x0_5": 64,
    "torchvision/squeezenet1_1": 64,
    "timm/test_byobnet": 64,
    "timm/test_efficientnet": 64,
    "timm/test_nfnet": 64,
    "timm/test_resnet": 64,
    "timm/test_vit": 160,
    "timm/test_convnext": 64,
    "timm/test_mambaout": 64,
}


# Of those: Fire modules, grouped and gated convolutions, standardized weights, attention.
EXPORTED = (
    "torchvision/squeezenet1_1",
    "timm/test_byobnet",
    "timm/test_efficientnet",
    "timm/test_nfnet",
    "timm/test_vit",
)


def stock_model(name):
    """The model and a batch for it."""
    library, _, model_name = name.partition("/")
    torch.manual_seed(0)
    if library == "timm":
        model = timm.create_model(model_name, pretrained=False)
    else:
        model = torchvision.models.get_model(model_name, weights=None)
    return model, torch.randn(2, 3, SAMPLE[name], SAMPLE[name])


@pytest.mark.parametrize("name", EXPORTED)
def test_stock_models_answer_the_same_in_onnxruntime(name, tmp_path):
    model, x = stock_model(name)
    prepared = quantize.prepare(model, "xnor", x)
    prepared.train()(x)  # batch norm has seen a batch
    quantize.export_onnx(prepared, tmp_path / "net.onnx", x)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = prepared.eval()(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert abs(model.eval()(x).detach().numpy() - expected).max() > 0.01 * abs(expected).max()  # it is another network


@pytest.mark.parametrize("name", SAMPLE)
def test_stock_models_train_and_are_counted(name):
    model, x = stock_model(name)
    prepared = quantize.prepare(model, "xnor", x)
    assert prepared.state_dict().keys() >= model.state_dict().keys()
    prepared.train()(x).square().mean().backward()
    binary = {n: m for n, m in prepared.named_modules() if isinstance(m, quantize.BinaryLayer)}
    assert len(binary) == len(quantize.plan(model, "xnor", x).binary) > 0
    for layer_name, layer in binary.items():
        assert layer.weight.grad.isfinite().all(), layer_name
    cost = quantize.summary(prepared.eval(), x)
    assert cost.binary_macs > cost.macs
    assert cost.packed_bytes < cost.float_bytes
    restored = quantize.restore(prepared).eval()
    model.load_state_dict(restored.state_dict())
    torch.testing.assert_close(restored(x), model.eval()(x))
