"""XNOR-Net++: the scale is learned instead of computed.

Bulat & Tzimiropoulos, *XNOR-Net++: Improved Binary Neural Networks*, 2019.
"""

import functools
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import inside_closed, inside_open, ste_sign

SMALLEST = 1e-3  # of a latent weight: its sign must survive


@register_scheme("xnorpp")
@dataclass(frozen=True)
class XNORPlusPlus(Scheme):
    """``y = (sign(x) * sign(W)) Gamma``, gradient of both signs: 1 where ``|.| <= 1`` (``< 1`` on the input).

    Gamma is one learned scale an output channel (case 1 of the paper), which starts at mean ``|W|``;
    with ``spatial`` it is the product of one a channel, one a row and one a column of the output (case 4).

    Args:
        spatial: learn the rows' and columns' scales too. It ties the network to one input size, and
            needs :func:`quantize.prepare`'s ``example_input``; linear layers have no rows and columns.
    """

    spatial: bool = False
    signed_input = True
    surrogate = staticmethod(inside_open)
    layouts = ("bireal",)

    @property
    def scales_output(self) -> bool:
        return self.spatial

    def check_output_size(self, output_size: tuple[int, ...] | None) -> None:
        if self.spatial and output_size is None:
            raise ValueError("scheme 'xnorpp:spatial=True' needs prepare's example_input: it learns a scale a row")

    def attach(self, layer: Any, output_size: tuple[int, ...] | None) -> None:
        self.check_output_size(output_size)
        filters = layer.float_filters().detach()
        layer.gamma = nn.Parameter(filters.abs().flatten(1).mean(1))
        sizes = output_size or () if self.spatial else ()
        for i, size in enumerate(sizes):
            layer.register_parameter(f"gamma_dim{i}", nn.Parameter(filters.new_ones(size)))

    def weight(self, filters: Tensor, layer: Any) -> QuantizedWeight:
        scale = layer.gamma.reshape((-1,) + (1,) * (filters.dim() - 1))
        return QuantizedWeight(ste_sign(filters, inside_closed), scale)

    def latent_weight(self, values: Tensor, scale: Tensor) -> Tensor:
        """Gamma is a parameter of its own, which may have become negative or 0."""
        return values * scale.abs().clamp_min(SMALLEST)

    def output_scale(self, x: Tensor, layer: Layer, *args) -> Tensor | None:
        dims = -1 - layer.channel_dim
        if not self.spatial or dims == 0:
            return None
        scales = (getattr(layer, f"gamma_dim{i}") for i in range(dims))
        return functools.reduce(lambda product, scale: product.unsqueeze(-1) * scale, scales)
