"""The backend for CUDA tensors: kernels in Triton (https://triton-lang.org) behind the signatures of :mod:`..cpu`.

Triton is imported with this package, and this package where the first CUDA tensor needs it. With
``TRITON_INTERPRET=1`` set before, Triton's interpreter runs the same kernels on CPU tensors, slowly.
"""

from torch import Tensor

from ..geometry import ConvGeometry, Epilogue, Layout, Output
from . import convolution
from .bits import pack
from .convolution import conv2d
from .max_pool import max_pool2d
from .weights import dense_weights, prepare_weights

__all__ = ["conv2d", "conv2d_float", "dense_weights", "max_pool2d", "pack", "prepare_weights"]


def conv2d_float(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output = "float32",
    layout: Layout = "nchw",
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """:func:`pack` and :func:`conv2d`, of floats (N, C, H, W).

    ``x`` may be bfloat16 or float16 too; a float output is of its type, rounded once, at the end.
    Two kernels: a convolution reads a pixel once a tap and a block of filters, and bits are 32 times less to read.
    """
    convolution.check_channels(x, geometry)
    return conv2d(pack(x, threshold, flip), weights, geometry, epilogue, output, layout, x.dtype)
