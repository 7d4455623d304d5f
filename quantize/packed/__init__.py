"""Inference modules that hold one bit a weight and compute on bits, and how a trained model becomes them."""

from .layers import Folding, PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from .pool import PackedMaxPool2d

__all__ = ["Folding", "PackedConv1d", "PackedConv2d", "PackedLayer", "PackedLinear", "PackedMaxPool2d"]
