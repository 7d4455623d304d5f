"""Layers that keep their weight in a form of their own, and the plain layers that they are for inference."""

from torch import nn

from .attention import SplitAttention, own_parameters
from .transposed import BinaryTransposedLinear


def make_plain(model: nn.Module) -> nn.Module:
    """Turn each into the binary layer of torch's own kind that computes the same, in place; returns ``model``.

    What packs, exports and counts layers then knows them. It cannot be undone: for a copy.
    """
    for module in list(model.modules()):
        if isinstance(module, SplitAttention):
            own_parameters(module)
        elif isinstance(module, BinaryTransposedLinear):
            module.become_linear()
    return model
