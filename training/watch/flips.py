"""How many bits training still changes."""

import torch
from torch import Tensor, nn

from quantize import BinaryLayer
from quantize.ste import sign


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
        # Ask in evaluation mode: a stochastic scheme draws its signs in training.
        weights = {name: layer.scheme.weight(layer.float_filters(), layer) for name, layer in self.layers.items()}
        return {name: sign(weight.values) > 0 for name, weight in weights.items()}

    def update(self) -> dict[str, float]:
        """Layer name -> share in 0 to 1."""
        before, self.bits = self.bits, self._bits()
        return {name: (self.bits[name] != before[name]).float().mean().item() for name in self.layers}
