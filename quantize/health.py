"""How the binary layers of a network in training are: which are alive, and how many bits training still changes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .binary.layers import BinaryLayer
from .calling import run
from .ste import sign

NO_GRADIENT = 1e-3  # a surrogate derivative below it; annealed ones never quite reach 0


@contextlib.contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """``models`` in evaluation mode; afterwards each of their modules is in its own again."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclasses.dataclass(frozen=True)
class LayerHealth:
    """A binary layer's input on one batch; shares in 0 to 1.

    Attributes:
        sign_balance: values above zero once quantized (+1, where they become signs); 0.5 says most.
        dead_channels: input channels whose quantized value is the same over batch and positions.
        saturation: values whose surrogate derivative is nearly zero, so that no gradient passes.
    """

    sign_balance: float
    dead_channels: float
    saturation: float


def input_health(layer: BinaryLayer, x: Tensor) -> LayerHealth | None:
    """The health of ``layer`` with input ``x``; None where the layer's scheme keeps its input in float."""
    with torch.enable_grad():
        if layer.threshold is not None:
            x = x - layer.per_channel(layer.threshold)
        x = x.detach().requires_grad_()
        bits = layer.scheme.input(x, layer)
        if bits is x:
            return None
        (derivative,) = torch.autograd.grad(bits.sum(), x)
    channels = bits.detach().movedim(layer.channel_dim, 0).flatten(1)
    constant = channels.amin(1) == channels.amax(1)
    return LayerHealth(
        sign_balance=(channels > 0).float().mean().item(),
        dead_channels=constant.float().mean().item(),
        saturation=(derivative.abs() < NO_GRADIENT).float().mean().item(),
    )


@torch.no_grad()
def measure_health(model: nn.Module, batch: Any) -> dict[str, LayerHealth]:
    """The health of each binary layer with binary inputs, by name, on ``batch``.

    The model runs in evaluation mode; its modes are then what they were. Of a layer that runs more than once, the last
    run counts.

    Args:
        batch: what the model is called with, as for :func:`quantize.prepare`.

    Raises ValueError for one that the model does not take.
    """
    found: dict[str, LayerHealth] = {}

    def watch(name: str):
        def look(layer: BinaryLayer, args: tuple) -> None:
            health = input_health(layer, args[0])
            if health is not None:
                found[name] = health

        return look

    layers = {name: module for name, module in model.named_modules() if isinstance(module, BinaryLayer)}
    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with evaluating(model):
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


class FlipRates:
    """The share of each binary layer's weights whose sign has changed since it was last asked.

    The sign is that of the weight the layer computes with (XNOR-Net's is centred), +1 for 0. Where a training
    stage has it compute with float weights, it is the sign they will have.
    """

    def __init__(self, model: nn.Module):
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer)}
        self.bits = self._bits()

    @torch.no_grad()
    def _bits(self) -> dict[str, Tensor]:
        with evaluating(*self.layers.values()):  # a stochastic scheme draws its signs in training
            weights = {name: layer.scheme.weight(layer.float_filters(), layer) for name, layer in self.layers.items()}
        return {name: sign(weight.values) > 0 for name, weight in weights.items()}

    def update(self) -> dict[str, float]:
        """Layer name -> share in 0 to 1."""
        before, self.bits = self.bits, self._bits()
        return {name: (self.bits[name] != before[name]).float().mean().item() for name in self.layers}


class Figures:
    """Health and flip rates as ``{"health/<layer>/<figure>": value, "flip_rate/<layer>": value}``, for any log.

    They are those that the trainer's TensorBoard shows.
    """

    def __init__(self, model: nn.Module, batch: Any):
        """``batch`` is what :func:`measure_health` runs the model on, always the same one."""
        self.model = model
        self.batch = batch
        self.flips = FlipRates(model)

    def __call__(self) -> dict[str, float]:
        """The figures now; flips are those since the last call."""
        figures = {f"flip_rate/{layer}": rate for layer, rate in self.flips.update().items()}
        for layer, health in measure_health(self.model, self.batch).items():
            figures |= {f"health/{layer}/{name}": value for name, value in dataclasses.asdict(health).items()}
        return figures
