"""Subclasses of the float layers with a forward of their own: which weight they use, how they pad.

A layer becomes binary by another class that knows ``nn.Conv2d`` and its kind. What a subclass does in
its own forward would be lost; an adapter says it in a form that a binary layer can carry out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weight = Callable[[Any], Tensor]  # of a layer, whose class the function knows
Padding = Callable[[Any, Tensor], Tensor]

# What a binary layer takes over from its float layer; whoever replaces one of them computes something else.
_METHODS = ("forward", "_conv_forward", "_output_padding")


def own_weight(layer: Any) -> Tensor:
    """The layer's ``weight`` as it is."""
    return layer.weight


def no_padding(layer: Any, x: Tensor) -> Tensor:
    """``x``: the layer's own ``padding`` is all."""
    return x


@dataclass(frozen=True)
class LayerAdapter:
    """How a class of layers differs from the ``nn`` layer that it is derived from.

    Attributes:
        weight: the weight that the layer computes with, from its parameters; this one is binarized.
        pad: pads a convolution's input before the operation; it gets the signs, so that zeros stay zeros.
    """

    weight: Weight = own_weight
    pad: Padding = no_padding


PLAIN = LayerAdapter()
_ADAPTERS: dict[str, LayerAdapter] = {}


def register_layer(layer_class: type[nn.Module] | str, weight: Weight = own_weight, pad: Padding = no_padding) -> None:
    """Teach :func:`prepare` a subclass of a convolution or linear layer that has its own ``forward``.

    Subclasses that inherit this ``forward`` are meant too. ::

        def standardized(layer):
            std, mean = torch.std_mean(layer.weight, dim=(1, 2, 3), keepdim=True)
            return (layer.weight - mean) / std

        quantize.register_layer(MyConv2d, weight=standardized)

    Args:
        layer_class: the class that defines ``forward``, or its full name ``"package.module.Class"``.
        weight: function from the layer to the weight that its forward computes with, of the same shape.
            A function at the top of a module, where prepared models are to be pickled.
        pad: function from a convolution and its input to the padded input, for padding that depends on the
            input's size; what the layer's ``padding`` says comes on top.
    """
    name = layer_class if isinstance(layer_class, str) else f"{layer_class.__module__}.{layer_class.__qualname__}"
    _ADAPTERS[name] = LayerAdapter(weight, pad)


def find_adapter(layer: nn.Module, base: type[nn.Module]) -> LayerAdapter | None:
    """What a binary layer must know about ``layer``, an instance of ``base``; None where nobody has said it."""
    replaced = [method for method in _METHODS if _function(layer, method) is not getattr(base, method, None)]
    if not replaced:
        return PLAIN
    forward = _function(layer, "forward")
    if replaced != ["forward"] or forward is None:
        return None
    return _ADAPTERS.get(f"{forward.__module__}.{forward.__qualname__.removesuffix('.forward')}")


def _function(layer: nn.Module, method: str) -> Callable | None:
    return getattr(getattr(layer, method, None), "__func__", None)


@lru_cache(maxsize=256)
def added_zeros(pad: Callable[[Tensor], Tensor], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right): what ``pad`` adds to an image of this size. ValueError where it is not zeros."""
    padded = pad(torch.ones(1, 1, *size))[0, 0]
    rows, columns = padded.nonzero(as_tuple=True)
    top, left = int(rows.min()), int(columns.min())
    bottom, right = padded.shape[0] - top - size[0], padded.shape[1] - left - size[1]
    if not torch.equal(padded, F.pad(torch.ones(size), (left, right, top, bottom))):
        raise ValueError("a packed layer pads with zeros only, and the layer's own padding is another")
    return top, left, bottom, right


def _pad_same(layer: Any, x: Tensor) -> Tensor:
    """TensorFlow's "SAME": ceil(size / stride) outputs, an odd padding has its larger half at the end."""
    pads: list[int] = []
    geometry = zip(x.shape[layer.channel_dim + 1 :], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    for size, kernel, stride, dilation in geometry:
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pads = [total // 2, total - total // 2, *pads]  # F.pad starts at the last dimension
    return F.pad(x, pads)


def _pad_same_if_dynamic(layer: Any, x: Tensor) -> Tensor:
    return _pad_same(layer, x) if layer.same_pad else x


def _standardized(layer: Any, scaled: bool) -> Tensor:
    """Mean 0 and variance 1 a filter, times the layer's gain and 1/sqrt(fan-in) where ``scaled``."""
    gain = (layer.gain * layer.scale).flatten() if scaled else None
    filters = layer.weight.reshape(1, layer.out_channels, -1)
    return F.batch_norm(filters, None, None, gain, training=True, momentum=0.0, eps=layer.eps).reshape_as(layer.weight)


# timm's, by name: importing this package does not import timm.
register_layer("timm.layers.linear.Linear")
register_layer("timm.layers.conv2d_same.Conv2dSame", pad=_pad_same)
for _name, _scaled in (("StdConv2d", False), ("ScaledStdConv2d", True)):
    _weight = partial(_standardized, scaled=_scaled)
    register_layer(f"timm.layers.std_conv.{_name}", _weight)
    register_layer(f"timm.layers.std_conv.{_name}Same", _weight, _pad_same_if_dynamic)
