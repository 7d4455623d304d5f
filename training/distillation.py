"""A teacher: a trained network whose answers another one learns."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checkpoint import BEST, find_checkpoint, read_file
from .config.defaults import resolve
from .data import Data
from .model import create_float, load_model, load_weights, read_weights


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
