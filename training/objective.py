"""What training minimizes: losses by name, and a teacher, a trained network whose answers another one learns."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import BEST, find_checkpoint, read_file
from .config import TrainConfig
from .config.defaults import resolve
from .data import Data
from .model import create_float, load_model, load_weights, read_weights


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

    def __init__(self, config: TrainConfig, teacher: nn.Module | None = None):
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


def load_teacher(name: str, data: Data, device: torch.device) -> nn.Module:
    """The network of ``--teacher``, in evaluation mode and without gradients.

    Args:
        name: a checkpoint or run directory of trainer_exp.py; or ``ARCH:CHECKPOINT``, where the checkpoint may
            also be a file of plain weights of the float network ``ARCH``.
        data: what the student learns from.

    Raises ValueError or OSError, in one sentence, for a teacher that is not there, is another than named, or
    does not fit the data.
    """
    arch, path = split_name(name)
    if arch is not None:
        resolve(arch)
    file = find_checkpoint(path, BEST)
    contents = read_file(file)
    if isinstance(contents, dict) and "format" in contents:
        teacher = _trained(file, arch, data)
    elif arch is None:
        raise ValueError(f"teacher {str(file)!r} holds plain weights; say of which network: --teacher ARCH:{file}")
    else:
        teacher = create_float(arch, len(data.classes), data.input_size[0])
        load_weights(teacher, read_weights(str(file)), str(file))
    return teacher.to(device).requires_grad_(False).eval()


def split_name(name: str) -> tuple[str | None, str]:
    """(arch, path) of ``ARCH:CHECKPOINT``; arch None for a checkpoint alone."""
    arch, colon, path = name.partition(":")
    return (None, name) if not colon or Path(name).exists() else (arch, path)


def _trained(file: Path, arch: str | None, data: Data) -> nn.Module:
    """The model of a checkpoint. Raises ValueError where it is no ``arch``, or not for ``data``."""
    model, info = load_model(file)
    if arch not in (None, info.arch):
        raise ValueError(f"teacher {str(file)!r} is {info.arch!r}, not {arch!r}; write --teacher {info.arch}:{file}")
    found, wanted = ((x.classes, x.input_size, x.normalization) for x in (info, data))
    differences = ("other classes", "another input size", "another normalization")
    for difference, theirs, ours in zip(differences, found, wanted, strict=True):
        if theirs != ours:
            raise ValueError(
                f"teacher {str(file)!r} was trained with {difference} than the data have: {_differ(theirs, ours)}; "
                "train a teacher on the same data"
            )
    return model


def _differ(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, list):
        odd = sorted(set(theirs) ^ set(ours))
        return f"{len(theirs)} there, {len(ours)} here" + (f", {', '.join(odd[:5])} differ" if odd else ", reordered")
    return f"{tuple(theirs)} there, {tuple(ours)} here"
