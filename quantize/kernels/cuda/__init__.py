"""The backend for CUDA tensors, a :class:`..backend.Backend`: kernels in Triton (https://triton-lang.org).

Triton is imported with this package, and this package where the first CUDA tensor needs it. With
``TRITON_INTERPRET=1`` set before, Triton's interpreter runs the same kernels on CPU tensors, slowly.
"""

from .bits import pack
from .convolution import conv2d, conv2d_float
from .max_pool import max_pool2d
from .weights import dense_weights, kernel_name, prepare_weights

__all__ = ["conv2d", "conv2d_float", "dense_weights", "kernel_name", "max_pool2d", "pack", "prepare_weights"]
