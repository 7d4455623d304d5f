"""Scaled dot product attention of inputs that torch.onnx has no translation for."""

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

TRANSLATED = 4  # dimensions of the inputs that torch.onnx translates


class AttentionOfAnyRank(TorchFunctionMode):
    """Within it, attention of other than 4 dimensions is matrix products and a softmax, which torch.onnx knows."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            function = attention
        return function(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options,
) -> Tensor:
    """``F.scaled_dot_product_attention``: ``softmax(scale Q K^T + mask) V``, spelled out where it has to be.

    Shapes (..., L, E), (..., S, E) and (..., S, D) -> (..., L, D).
    """
    if query.dim() == TRANSLATED or dropout_p:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
        )
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:]).tril().bool()
    if attn_mask is not None and attn_mask.is_floating_point():
        scores = scores + attn_mask
    elif attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -float("inf"))
    return scores.softmax(-1) @ value
