"""Learned thresholds: where they start, when they settle, and that without them a ReLU network stays dead."""

import math
from statistics import NormalDist

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import quantize
from quantize.binary.threshold import (
    CONSTANT_SIGN_SHARE,
    channel_sums,
    constant_sign,
    needs_threshold,
    threshold_start,
)


def pending_layer(kind: str = "conv") -> nn.Module:
    layer = nn.Conv2d(3, 4, 3) if kind == "conv" else nn.Linear(3, 4)
    return quantize.prepare(nn.Sequential(layer), "xnor", keep_float=())[0]


def test_the_threshold_moves_the_comparison():
    layer = quantize.BinaryConv2d(2, 3, 1, scheme="bnn", threshold=True)
    with torch.no_grad():
        layer.threshold.copy_(torch.tensor([0.5, -2.0]))
    x = torch.randn(4, 2, 3, 3)
    signs = torch.stack([torch.where(x[:, 0] >= 0.5, 1.0, -1.0), torch.where(x[:, 1] >= -2.0, 1.0, -1.0)], 1)
    expected = F.conv2d(signs, torch.where(layer.weight >= 0, 1.0, -1.0), layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_the_threshold_gets_minus_the_gradient_of_its_channel():
    layer = quantize.BinaryConv2d(2, 3, 3, scheme="xnor", threshold=True)
    x = torch.randn(4, 2, 5, 5, requires_grad=True)
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.threshold.grad, -x.grad.sum((0, 2, 3)))
    assert layer.threshold.grad.abs().min() > 0


@pytest.mark.parametrize(("kind", "shape"), [("conv", (8, 3, 5, 5)), ("conv", (3, 5, 5)), ("linear", (2, 8, 3))])
def test_a_pending_threshold_settles_at_the_means_of_a_nonnegative_batch(kind, shape):
    layer = pending_layer(kind)
    x = torch.rand(shape)
    channel = x.dim() - 1 if kind == "linear" else x.dim() - 3
    layer(x)
    means = x.mean(tuple(d for d in range(x.dim()) if d != channel))
    torch.testing.assert_close(layer.threshold.detach(), means)
    layer(x + 1)
    torch.testing.assert_close(layer.threshold.detach(), means)
    assert not layer.threshold_pending


def test_a_pending_threshold_stays_zero_on_a_signed_batch():
    layer = pending_layer()
    layer(torch.randn(8, 3, 5, 5))
    assert layer.threshold.tolist() == [0, 0, 0]
    assert not layer.threshold_pending


@pytest.mark.parametrize(("count", "constant"), [(18, False), (19, True)])
def test_a_few_values_of_one_sign_may_be_chance(count, constant):
    """Where half of the values of all channels are negative: 19 fair coins fall alike once in 2^18."""
    x = torch.ones(count, 2)
    x[:, 1] = -1
    assert constant_sign(channel_sums(x, -1)).tolist() == [constant] * 2


def test_each_channel_starts_by_its_own_signs():
    """Never negative, always negative, a thin tail below zero: the mean. A third below zero: 0."""
    layer = quantize.prepare(nn.Sequential(nn.Linear(4, 2)), "xnor", keep_float=())[0]
    x = torch.rand(300, 4) + torch.tensor([0.0, -1.0, -0.03, -0.33])
    layer(x)
    torch.testing.assert_close(layer.threshold.detach()[:3], x.mean(0)[:3])
    assert layer.threshold[3] == 0


def test_a_sign_counts_as_constant_where_it_explains_half_of_what_a_fair_one_does():
    def explained(share: float) -> float:
        """Variance of a Gaussian that its sign explains, a ``share`` of the values below zero."""
        return NormalDist().pdf(NormalDist().inv_cdf(share)) ** 2 / (share * (1 - share))

    assert explained(0.5) == pytest.approx(2 / math.pi)
    assert explained(CONSTANT_SIGN_SHARE) == pytest.approx(explained(0.5) / 2, rel=0.005)
    x = torch.randn(100_000) + NormalDist().inv_cdf(1 - CONSTANT_SIGN_SHARE)
    correlation = torch.corrcoef(torch.stack([x, torch.where(x >= 0, 1.0, -1.0)]))[0, 1]
    assert correlation.square().item() == pytest.approx(1 / math.pi, rel=0.05)


def test_the_example_and_the_first_batch_give_the_same_start():
    model, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6)), torch.randn(64, 6)
    planned, pending = quantize.prepare(model, "xnor", x), quantize.prepare(model, "xnor")
    pending(x)
    torch.testing.assert_close(planned[2].threshold, pending[2].threshold)


def test_negative_zero_is_not_negative():
    layer = pending_layer()
    layer(-torch.zeros(8, 3, 5, 5))
    assert not layer.threshold_pending
    x = torch.rand(2, 3, 5, 5).clamp_min(0.5)
    x[0, 0, 0, 0] = -0.0
    layer = pending_layer()
    layer(x)
    assert layer.threshold.min() > 0.4


@pytest.mark.parametrize("channels", [0, 1, 2, 5])
def test_values_are_counted_a_channel(channels):
    x = torch.randn(3, channels, 2, 7)
    count, negative, total = channel_sums(x, -3)
    assert count.tolist() == [3 * 2 * 7] * channels
    assert negative.tolist() == [int((x[:, c] < 0).sum()) for c in range(channels)]
    torch.testing.assert_close(total, x.sum((0, 2, 3)))


def test_a_batch_without_samples_leaves_a_threshold_pending():
    """Of an expert, say, that gets no token of the first batch."""
    layer = pending_layer("linear")
    layer(torch.rand(0, 3))
    assert layer.threshold_pending
    x = torch.rand(8, 3)
    layer(x)
    torch.testing.assert_close(layer.threshold.detach(), x.mean(0))


def test_an_average_of_weights_has_the_thresholds():
    """AveragedModel copies the parameters; that the first batch has set them it does not know."""
    layer = pending_layer("linear")
    average = AveragedModel(layer)
    assert "module.threshold" not in average.state_dict()
    layer(torch.rand(8, 3))
    average.update_parameters(layer)
    assert torch.equal(average.state_dict()["module.threshold"], layer.threshold)
    assert quantize.summary(average, torch.rand(8, 3)).parameters == 4 * 3 + 4 + 3


def test_an_example_that_a_layer_sees_nothing_of_leaves_its_threshold_pending():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(3, 4) for _ in range(2))

        def forward(self, x):
            return torch.cat([expert(x[x[:, 0] * (-1) ** i > 0]) for i, expert in enumerate(self.experts)])

    plan = quantize.plan(Experts(), "xnor", torch.rand(8, 3) + 1, keep_float=())
    assert [row.threshold for row in plan] == ["learned from the input's mean", "set by the first training batch"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_example_that_gives_no_number_to_start_from_is_refused(value):
    x = torch.rand(8, 3)
    x[0, 1] = value
    with pytest.raises(ValueError, match="layer '0' gets NaN or infinite values on example_input.*give an example_inp"):
        quantize.prepare(nn.Sequential(nn.Linear(3, 4)), "xnor", x, keep_float=())


def test_evaluation_leaves_a_threshold_pending():
    layer = pending_layer().eval()
    layer(torch.rand(8, 3, 5, 5))
    assert layer.threshold_pending
    assert layer.threshold.tolist() == [0, 0, 0]
    layer.train()(torch.rand(8, 3, 5, 5))
    assert layer.threshold.min() > 0.3


def test_the_first_step_already_uses_the_settled_threshold():
    pending, settled = pending_layer(), quantize.BinaryConv2d(3, 4, 3, threshold=True)
    x = torch.rand(8, 3, 5, 5)
    settled.load_state_dict({**pending.state_dict(), "threshold": x.mean((0, 2, 3))})
    torch.testing.assert_close(pending(x), settled(x))


@pytest.mark.parametrize("scheme", ["bwn", "dorefa", "ternary", "binaryconnect"])
def test_a_scheme_that_does_not_compare_has_no_threshold(scheme):
    assert quantize.prepare(nn.Sequential(nn.Linear(3, 2)), scheme, keep_float=())[0].threshold is None


def stock_network() -> nn.Sequential:
    """Convolution, batch norm, ReLU: the order in which sign sees non-negative inputs only."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def digits_accuracy(model: nn.Module, epochs: int = 6) -> float:
    """Share of right answers on the last 400 digits after training on the others."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images) - 400).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    model.eval()
    return (model(images[-400:]).argmax(1) == labels[-400:]).float().mean().item()


def test_learned_thresholds_make_a_stock_network_learn():
    example = torch.tensor(load_digits().images[:64], dtype=torch.float32)[:, None] / 16
    float_model = stock_network()
    model = quantize.prepare(float_model, "xnor", example)
    dead = quantize.prepare(float_model, "xnor", example)
    for layer in dead.modules():
        if isinstance(layer, quantize.BinaryLayer):
            layer.threshold = None
    learned, compared_with_zero = digits_accuracy(model), digits_accuracy(dead)
    assert learned > 0.8
    assert compared_with_zero < 0.4


@pytest.mark.parametrize(("constant", "needed"), [(0, False), (1, False), (2, True), (20, True)])
def test_a_layer_needs_a_threshold_where_a_tenth_of_its_channels_is_constant(constant, needed):
    x = torch.randn(64, 20)
    x[:, :constant] = x[:, :constant].abs() + 1
    sums = channel_sums(x, -1)
    assert bool(needs_threshold(sums)) is needed
    expected = torch.zeros(20)
    if needed:
        expected[:constant] = x[:, :constant].mean(0)
    torch.testing.assert_close(threshold_start(sums), expected)
