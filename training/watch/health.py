"""What a run says of its layers: which have died, and where a number is not finite."""

import torch
from torch import Tensor, nn

from quantize.health import FlipRates, LayerHealth, input_health, measure_health

__all__ = [
    "FlipRates",
    "HealthWatch",
    "LayerHealth",
    "all_finite",
    "first_nonfinite",
    "input_health",
    "measure_health",
]

# Shares from which on a layer is dead. Surrogates that sharpen saturate most inputs of a healthy layer.
DEAD_CHANNELS, SATURATION = 0.95, 0.99

REASONS = {
    "dead": "the signs of the inputs are constant; put batch norm before the layer, or let it learn a threshold",
    "saturated": "no gradient reaches the inputs; put batch norm before the layer, or lower --lr",
    "unchanged": "no weight has changed its sign since the start; raise --lr",
}


class HealthWatch:
    """Says when layers die, once a layer and reason.

    Attributes:
        unchanged: the layers none of whose weights has ever changed its sign; None before the first epoch.
        layers: how many binary layers there are.
        ill: a key of ``REASONS`` -> the layers it held for after the last epoch.
    """

    def __init__(self, layers: int, unchanged: list[str] | None = None):
        """``unchanged`` is that of the run which is continued."""
        self.layers = layers
        self.unchanged = unchanged
        self.ill: dict[str, list[str]] = {}
        self.said: set[tuple[str, str]] = set()

    def epoch(self, health: dict[str, LayerHealth], flip_rates: dict[str, float]) -> list[str]:
        """Lines on the layers that have died in this epoch; mostly none."""
        first = self.unchanged is None
        self.unchanged = [n for n, rate in flip_rates.items() if rate == 0 and (first or n in self.unchanged)]
        self.ill = {
            "dead": [name for name, layer in health.items() if layer.dead_channels >= DEAD_CHANNELS],
            "saturated": [name for name, layer in health.items() if layer.saturation >= SATURATION],
            "unchanged": [] if first else self.unchanged,  # one epoch may be too short for a small layer
        }
        lines = []
        for reason, names in self.ill.items():
            new = [name for name in names if (name, reason) not in self.said]
            self.said |= {(name, reason) for name in new}
            if new:
                lines.append(f"Warning: {self._count(new)}: {REASONS[reason]}")
        return lines

    def result(self) -> list[str]:
        """A line on the layers that are dead at the end of the run; none where all live."""
        dead = list(dict.fromkeys(name for names in self.ill.values() for name in names))
        return [f"Warning: the run ends with dead layers, {self._count(dead)}"] if dead else []

    def _count(self, names: list[str]) -> str:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return f"{len(names)} of {self.layers} binary layers ({shown})"


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
