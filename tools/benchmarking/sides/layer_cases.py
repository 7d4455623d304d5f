"""Layers of every scheme: converted to bits, and in float."""

import copy
import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import quantize

from .network_sides import NetworkProblem

# Name -> the float layer, and the shape of one of its inputs.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv-256-3x3-14x14": (lambda: nn.Conv2d(256, 256, 3, padding=1), (256, 14, 14)),
    "linear-2048": (lambda: nn.Linear(2048, 2048), (2048,)),
    "transposed-128-4x4s2-16x16": (lambda: nn.ConvTranspose2d(128, 128, 4, 2, 1), (128, 16, 16)),
    "conv3d-64-3x3x3-8x16x16": (lambda: nn.Conv3d(64, 64, 3, padding=1), (64, 8, 16, 16)),
}
# Of dorefa, weights have w_bits and inputs a_bits; the inputs of bwn, binaryconnect and ternary stay float.
_LEVELS = tuple(f"dorefa:w_bits={w},a_bits={a}" for w, a in ((1, 2), (1, 4), (2, 2)))
SCHEMES = ("xnor", *_LEVELS, "bwn", "binaryconnect", "ternary")


@dataclasses.dataclass(frozen=True)
class LayerCase:
    """A layer of :data:`LAYERS` in a scheme, alone in a network: floats in and floats out."""

    layer: str
    scheme: str

    @property
    def name(self) -> str:
        return f"{self.layer} {self.scheme}"

    @functools.cached_property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The float network and the binary one, the same each time."""
        torch.manual_seed(0)
        build, _ = LAYERS[self.layer]
        network = nn.Sequential(build()).eval()
        binary = quantize.prepare(copy.deepcopy(network), self.scheme, self.batch(1), keep_float=())
        return network, binary.eval()

    def batch(self, size: int) -> Tensor:
        return torch.randn(size, *LAYERS[self.layer][1], generator=torch.Generator().manual_seed(size))

    def macs(self, batch: int) -> int:
        """Multiply-accumulates of the float layer."""
        return batch * quantize.summary(self.networks[0], self.batch(1)).macs

    def problem(self, batch: int) -> NetworkProblem:
        return NetworkProblem.of(self.batch(batch), self.networks)


CASES = [LayerCase(layer, scheme) for layer in LAYERS for scheme in SCHEMES]
