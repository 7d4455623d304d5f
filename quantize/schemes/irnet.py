"""IR-Net: balanced, standardized weights and a surrogate that sharpens over training.

Qin et al., *Forward and Backward Information Retention for Accurate Binary Neural Networks*, 2020.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..scheme import Layer, QuantizedWeight, Scheme, register_scheme
from ..ste import sign

T_MIN, T_MAX = 0.1, 10.0


def annealed_slope(x: Tensor, progress: Tensor) -> Tensor:
    """``k t (1 - tanh^2(t x))`` with ``t = T_min (T_max / T_min)^progress`` and ``k = max(1/t, 1)``.

    The derivative of ``k tanh(t x)``: close to the identity at first, close to sign at the end.
    """
    t = T_MIN * (T_MAX / T_MIN) ** progress
    return (1 / t).clamp_min(1) * t * (1 - torch.tanh(t * x) ** 2)


class _AnnealedSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, progress: Tensor) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, progress = inputs
        ctx.save_for_backward(x, progress.clone())  # set_progress writes into the layer's own tensor

    @staticmethod
    def backward(ctx, grad: Tensor):
        return (grad * annealed_slope(*ctx.saved_tensors)).to(grad.dtype), None


def standardize(filters: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 a filter; a constant filter (one weight alone too) gives 0."""
    axes = tuple(range(1, filters.dim()))
    centred = filters - filters.mean(dim=axes, keepdim=True)
    variance = centred.square().mean(dim=axes, keepdim=True)
    # Where there is no spread but rounding, a division by it would make the gradient explode.
    return centred / torch.where(variance > 1e-12, variance, 1.0).sqrt()


@register_scheme("irnet")
@dataclass(frozen=True)
class IRNet(Scheme):
    """``y = (sign(x) * sign(V)) s``, ``V`` the standardized filters, ``s = 2^round(log2 mean |V|)``, a bit shift.

    Gradient: :func:`annealed_slope` on input and V, carried through the standardization; none through s.
    """

    signed_input = True
    annealed = True
    layouts = ("bireal",)

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        v = standardize(filters)
        mean = v.detach().abs().mean(dim=tuple(range(1, v.dim())), keepdim=True)
        shift = torch.exp2(torch.round(torch.log2(mean.clamp_min(2.0**-16))))
        return QuantizedWeight(_AnnealedSign.apply(v, layer.progress), shift)

    def input(self, x: Tensor, layer: Layer) -> Tensor:
        return _AnnealedSign.apply(x, layer.progress)
