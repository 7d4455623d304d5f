"""Inference modules that hold one bit a weight and compute on bits, and how a trained model becomes them."""

from .int8.int8_layers import Int8Conv2d, Int8Linear
from .layers import Folding, PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from .pool import FloatAvgPool2d, FloatMaxPool2d, PackedMaxPool2d

__all__ = [
    "FloatAvgPool2d",
    "FloatMaxPool2d",
    "Folding",
    "Int8Conv2d",
    "Int8Linear",
    "PackedConv1d",
    "PackedConv2d",
    "PackedLayer",
    "PackedLinear",
    "PackedMaxPool2d",
]
