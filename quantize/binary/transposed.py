"""``Conv1D`` of the package ``transformers`` (GPT-2): a linear layer whose weight is (in, out)."""

from typing import Any

from torch import Tensor, nn

from .adapters import PLAIN, LayerAdapter
from .layers import BinaryLinear, register_form


def transposed(layer: Any) -> Tensor:
    """The weight as ``nn.Linear`` has it."""
    return layer.weight.t().contiguous()


class BinaryTransposedLinear(BinaryLinear):
    """``transformers.pytorch_utils.Conv1D`` with a scheme: (*, nx) -> (*, nf). :func:`quantize.prepare` makes it."""

    nx: int
    nf: int

    def __init__(self, *_args, **_options):
        raise TypeError("quantize.prepare makes it of a transformers Conv1D; a new layer is a quantize.BinaryLinear")

    @property
    def in_features(self) -> int:  # type: ignore[override]  # it has another name in this layer
        return self.nx

    @property
    def out_features(self) -> int:  # type: ignore[override]  # as above
        return self.nf

    def become_linear(self) -> None:
        """The same layer with its weight as ``nn.Linear`` has it, in place; that cannot be undone."""
        weight, sizes = transposed(self).detach(), {"in_features": self.nx, "out_features": self.nf}
        changed: Any = self
        changed.__class__, changed.adapter = BinaryLinear, PLAIN
        vars(changed).update(sizes)
        changed.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)


register_form("transformers.pytorch_utils.Conv1D", BinaryTransposedLinear, LayerAdapter(weight=transposed))
