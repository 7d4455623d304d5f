"""Why a model could not be traced, and where."""

import traceback
import types

import torch
from torch import nn


def failure(error: BaseException, model: nn.Module) -> str:
    """The first line of what is at the bottom of ``error``, after the module in which it arose, where that is known."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    reason = str(causes[-1]).strip().partition("\n")[0] or type(causes[-1]).__name__
    if "data-dependent" in reason:
        reason += "; of a detector, whose boxes are as many as it finds, export the parts: model.backbone, model.head"
    place = _place([frame for cause in causes for frame, _ in traceback.walk_tb(cause.__traceback__)], model)
    return f"in {place!r}: {reason}" if place else reason


def _place(frames: list[types.FrameType], model: nn.Module) -> str | None:
    """The module whose operation was translated in one of ``frames``, or whose forward is the innermost of them."""
    names, place = {module: name for name, module in model.named_modules()}, None
    for frame in frames:
        node, module = frame.f_locals.get("node"), frame.f_locals.get("self")
        if isinstance(node, torch.fx.Node) and node.meta.get("nn_module_stack"):
            return list(node.meta["nn_module_stack"].values())[-1][0]
        if isinstance(module, nn.Module):
            place = names.get(module, place)
    return place
