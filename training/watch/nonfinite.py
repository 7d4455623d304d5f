"""Where a network first computes an infinity or a NaN."""

import torch
from torch import Tensor, nn


def all_finite(model: nn.Module) -> bool:
    """Whether all parameters and buffers are finite."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor) -> str:
    """The first layer, in execution order, whose output on ``images`` is not finite, in words.

    Says whether the layer's weights, or their gradients of the step before, were so already. The
    model runs once more in its own mode: use it on a run that stops.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, args, output) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            found.append(module)

    leaves = [m for m in model.modules() if not any(m.children())]
    handles = [module.register_forward_hook(look) for module in leaves]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    names = {module: name for name, module in model.named_modules()}
    broken = [f"{names[m]!r} ({type(m).__name__})" for m in leaves if not _finite_values(m)]
    if not found:
        return f"the first layer with non-finite weights is {broken[0]}" if broken else "every layer's output is finite"
    layer = found[0]
    cause = "its weights are finite"
    if not _finite_values(layer):
        cause = "its weights are not finite either"
    if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in layer.parameters(recurse=False)):
        cause += ", nor was their gradient of the step before"
    return f"the first layer with a non-finite output is {names[layer]!r} ({type(layer).__name__}); {cause}"


def _finite_values(module: nn.Module) -> bool:
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return all(bool(torch.isfinite(t).all()) for t in tensors)
