"""``nn.MultiheadAttention`` whose two projections are layers that can be binary.

torch's own forward hands their weights to a function. :func:`split` puts another in its place, in which both are
called. The parameters stay where they are: ``in_proj_weight`` keeps its name, and the layer ``in_proj`` looks it up.
"""

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .binary_layer import BinaryLayer
from .layers import BinaryLinear, register_form


class _OfAttention:
    """Mixin over a linear layer: its weight and bias are those of the attention that it is a part of."""

    attention: tuple[nn.MultiheadAttention]  # in a tuple: it is no submodule

    @property
    def weight(self) -> nn.Parameter:
        return self.attention[0].in_proj_weight

    @property
    def bias(self) -> nn.Parameter | None:
        return self.attention[0].in_proj_bias


class InProjection(_OfAttention, nn.Linear):  # type: ignore[misc]  # properties where a layer has parameters
    """The queries, keys and values of an attention, one after the other: (*, E) -> (*, 3 E)."""

    def __init__(self, attention: nn.MultiheadAttention):
        nn.Module.__init__(self)
        self.in_features, self.out_features = attention.embed_dim, 3 * attention.embed_dim
        self.attention = (attention,)
        self.training = attention.training


class BinaryInProjection(_OfAttention, BinaryLinear):  # type: ignore[misc]  # properties, as above
    """:class:`InProjection` with a scheme."""


register_form(f"{__name__}.InProjection", BinaryInProjection)


class SplitAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` that calls its projections, the layers ``in_proj`` and ``out_proj``.

    Made by :func:`split` of a module, undone by :func:`join`. Queries, keys and values that are different tensors
    go through ``in_proj`` one by one.
    """

    whole_class: type[nn.MultiheadAttention]
    in_proj: nn.Module

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """False: nn.TransformerEncoder asks it before it takes a way around the projections."""
        return False

    def __setstate__(self, state: dict) -> None:
        nn.Module.__setstate__(self, state)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``'s: ``is_causal`` says that ``attn_mask`` is the causal mask."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        q, k, v = (self._heads(x, batched) for x in self._project(query, key, value))
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            mixed, weights = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        mixed = mixed.transpose(1, 2).flatten(2)
        if not batched:
            mixed = mixed.squeeze(0)
        elif not self.batch_first:
            mixed = mixed.transpose(0, 1)
        return self.out_proj(mixed), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> Iterator[Tensor]:
        projection = self.in_proj
        if isinstance(projection, _OfAttention) and projection.attention[0] is not self:
            projection.attention = (self,)  # a replica of DataParallel
        done: dict[int, Tensor] = {}
        for i, x in enumerate((query, key, value)):
            if id(x) not in done:
                done[id(x)] = projection(x)
            yield done[id(x)].chunk(3, -1)[i]

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """(N, heads, L, E / heads)."""
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores (N, heads, L, S), broadcastable, or None."""
        masks = []
        if attn_mask is not None:
            by_head = attn_mask.dim() == 3
            masks.append(attn_mask.unflatten(0, (-1, self.num_heads)) if by_head else attn_mask)
        if key_padding_mask is not None:
            masks.append(key_padding_mask.unflatten(-1, (1, 1, -1)))  # (N, 1, 1, S), or (1, 1, S) of one sample
        added = [
            torch.zeros_like(m, dtype=q.dtype).masked_fill(m, -float("inf")) if m.dtype == torch.bool else m.to(q.dtype)
            for m in masks
        ]
        return sum(added[1:], added[0]) if added else None


def may_split(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether it is an attention of torch's own kind, with one matrix for queries, keys and values."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and "forward" not in vars(module)
        and isinstance(module._parameters.get("in_proj_weight"), nn.Parameter)
        and not hasattr(module, "in_proj")
        and module.bias_k is None
        and module.bias_v is None
        and not module.add_zero_attn
    )


def split(attention: nn.MultiheadAttention) -> SplitAttention:
    """Make the projections of an attention layers, in place; returns the same object."""
    changed: Any = attention
    changed.whole_class = type(attention)
    changed.__class__ = SplitAttention
    after = dict(attention._modules)
    attention._modules.clear()
    changed.in_proj = InProjection(attention)  # in the order in which they are called
    attention._modules.update(after)
    return changed


def join(attention: SplitAttention) -> None:
    """Undo :func:`split`, in place."""
    changed: Any = attention
    del changed.in_proj
    changed.__class__ = attention.whole_class
    del changed.whole_class


def split_all(model: nn.Module) -> list[SplitAttention]:
    """Split every attention of ``model`` that can be, in place; returns these."""
    found = [module for module in model.modules() if may_split(module)]
    return [split(attention) for attention in found]


def join_float(model: nn.Module) -> None:
    """Undo :func:`split` wherever no projection is binary."""
    for module in list(model.modules()):
        if isinstance(module, SplitAttention):
            projections = (module.in_proj, module.out_proj)
            if not any(isinstance(layer, BinaryLayer) for layer in projections):
                join(module)


def own_parameters(attention: SplitAttention) -> None:
    """Hand the parameters over to the layer ``in_proj``, in place; that cannot be undone."""
    if not isinstance(attention.in_proj, _OfAttention):
        return
    layer: Any = attention.in_proj
    weight, bias = layer.weight, layer.bias
    layer.__class__ = BinaryLinear if isinstance(layer, BinaryLayer) else nn.Linear
    del layer.attention
    for name, parameter in (("weight", weight), ("bias", bias)):
        layer.register_parameter(name, parameter)
        attention.register_parameter(f"in_proj_{name}", None)
    if isinstance(layer, BinaryLayer):
        layer.float_keys = layer.float_keys | {"weight", "bias"}
