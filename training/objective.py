"""What training minimizes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch; see :func:`torch.nn.functional.cross_entropy`."""
    return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)


def squared_hinge(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """One against all: the mean over batch and classes of ``max(0, 1 - t y)^2``, t = +1 for the class, else -1.

    For probabilities p of the classes, the expectation over t: ``p max(0, 1 - y)^2 + (1 - p) max(0, 1 + y)^2``.
    """
    classes = outputs.shape[1]
    p = targets if targets.is_floating_point() else F.one_hot(targets, classes)
    p = p * (1 - label_smoothing) + label_smoothing / classes
    return (p * F.relu(1 - outputs).square() + (1 - p) * F.relu(1 + outputs).square()).mean()


# Of outputs (N, classes) and targets: labels (N,), or probabilities (N, classes).
LOSSES = {"cross_entropy": cross_entropy, "squared_hinge": squared_hinge}


def kl_divergence(outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """Mean over the batch of ``sum_c p_c log(p_c / q_c)``, p the teacher's distribution, q the student's; both
    outputs (N, classes) are logits, at temperature 1. Liu et al., *ReActNet*, 2020, eq. 7.
    """
    p, q = (logits.log_softmax(1) for logits in (teacher_outputs, outputs))
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


class Objective:
    """The loss of a training batch: ``(1 - w) * loss(labels) + w * KL(teacher)``, w = 0 without a teacher."""

    def __init__(self, config, teacher: nn.Module | None = None):
        self.loss = LOSSES[config.loss]
        self.label_smoothing = config.label_smoothing
        self.teacher = teacher
        self.weight = config.distill_weight

    def __call__(self, outputs: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """Outputs (N, classes); labels (N,) or probabilities (N, classes); the images that both networks see."""
        loss = self.loss(outputs, targets, self.label_smoothing)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(images)
        return (1 - self.weight) * loss + self.weight * kl_divergence(outputs, taught)
