"""Losses against numpy in double precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from training.objective import Objective, cross_entropy, kl_divergence, squared_hinge


@pytest.fixture
def outputs():
    return torch.randn(6, 4, dtype=torch.double) * 2


LABELS = torch.tensor([0, 3, 1, 2, 2, 0])
MIXED = torch.tensor(
    [[0.7, 0.3, 0, 0], [0, 0, 0.5, 0.5], [0, 1, 0, 0], [0.25] * 4, [0, 0, 1, 0], [0.1, 0, 0, 0.9]]
).double()


def probabilities(targets):
    return targets.numpy() if targets.is_floating_point() else np.eye(4)[targets.numpy()]


def log_softmax(x):
    x = x.detach().numpy()
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "mixed"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_are_their_formulas(outputs, targets, smoothing):
    p = probabilities(targets) * (1 - smoothing) + smoothing / 4
    expected = -(p * log_softmax(outputs)).sum(1).mean()
    assert cross_entropy(outputs, targets if targets is LABELS else MIXED.double(), smoothing) == pytest.approx(
        expected
    )
    y, found = outputs.numpy(), squared_hinge(outputs, targets, smoothing)
    # The expectation over t = +1 with probability p, else -1.
    hinge = [np.maximum(0, 1 - t * y) ** 2 for t in (1, -1)]
    assert found.item() == pytest.approx((p * hinge[0] + (1 - p) * hinge[1]).mean())


def test_kl_divergence_is_its_formula_and_zero_for_equals(outputs):
    teacher = torch.randn_like(outputs)
    log_p, log_q = log_softmax(teacher), log_softmax(outputs)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    assert kl_divergence(outputs, teacher).item() == pytest.approx(expected)
    assert kl_divergence(outputs, outputs + 3).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_teacher_has_its_share_of_the_loss(weight):
    student, teacher = nn.Linear(5, 4), nn.Linear(5, 4)
    config = SimpleNamespace(loss="cross_entropy", label_smoothing=0.0, distill_weight=weight)
    images = torch.randn(6, 5)
    outputs = student(images)
    loss = Objective(config, teacher)(outputs, LABELS, images)
    parts = cross_entropy(outputs, LABELS).item(), kl_divergence(outputs, teacher(images)).item()
    assert loss.item() == pytest.approx((1 - weight) * parts[0] + weight * parts[1], rel=1e-5)
    loss.backward()
    assert student.weight.grad is not None
    assert teacher.weight.grad is None
    assert Objective(config)(outputs, LABELS, images).item() == pytest.approx(parts[0])
