"""Binary convolutions and max pooling on bits, and the choice of who computes them.

On the CPU the native library where it was built (:mod:`.cpu`), else the reference (:mod:`.reference`) with one
warning; on CUDA devices Triton kernels (:mod:`.cuda`); on others the reference. Weights are prepared once for a
backend, which then runs them: those of the native library are flat bytes, Triton's flat int32, the reference's
the dense ones.
"""

import functools
import os
import warnings
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, cpu_signs, library, reference
from .geometry import ConvGeometry, Epilogue, Layout, Output, PoolGeometry

__all__ = [
    "ConvGeometry",
    "Epilogue",
    "Layout",
    "Output",
    "PoolGeometry",
    "available_kernels",
    "conv2d",
    "conv2d_float",
    "dense_weights",
    "kernel_name",
    "max_pool2d",
    "pack",
    "prepare_weights",
]


def available_kernels() -> list[str]:
    """Names for ``kernel=`` and XNORKIT_KERNEL on this machine's CPU: "reference", then native ones, the best last."""
    return ["reference", *cpu.available_kernels()]


@functools.cache
def _warn_once() -> None:
    message = library.not_built("binary layers run the slow reference kernels")
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _triton() -> ModuleType:
    """The Triton backend; ImportError where there is no Triton."""
    try:
        from . import cuda
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ImportError(
            "binary layers on CUDA tensors run Triton kernels, and Triton is not installed: pip install triton, "
            "or set XNORKIT_KERNEL=reference to run the slow reference kernels"
        ) from error
    return cuda


def _choose(kernel: str | None, *tensors: Tensor | None) -> ModuleType:
    """The backend for tensors, or the one that ``kernel`` or XNORKIT_KERNEL forces."""
    forced = kernel or os.environ.get("XNORKIT_KERNEL")
    if forced == "reference":
        return reference
    devices = {t.device.type for t in tensors if t is not None}
    if forced == "triton" or "cuda" in devices:
        return _triton()
    if devices != {"cpu"}:
        return reference
    if not cpu.is_available():
        _warn_once()
        return reference
    return cpu


def _backend(weights: Tensor) -> ModuleType:
    """The backend that weights were prepared for."""
    if weights.dtype is torch.int32:
        return _triton()
    return cpu if weights.dim() == 1 else reference


def training_backend(x: Tensor) -> ModuleType | None:
    """Who computes signs and their gradients in training on tensors such as ``x``; None: plain torch does."""
    forced = os.environ.get("XNORKIT_KERNEL")
    if forced == "reference":
        return None
    if forced != "triton" and x.device.type != "cuda":
        return cpu_signs
    try:
        from .cuda import signs as on_cuda
    except ImportError:  # no Triton: training needs none
        return None
    return on_cuda


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W) to bits, int64 (N, H, W, words); see :func:`quantize.packing.pack_activations`."""
    return _choose(None, x).pack(x, threshold, flip)


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Dense weights, uint8 (out, bytes), in the order a kernel reads them; see :func:`.cpu.prepare_weights`."""
    return _choose(kernel, dense).prepare_weights(dense, geometry, kernel, size)


def dense_weights(prepared: Tensor, geometry: ConvGeometry) -> Tensor:
    """The dense weights, uint8 (out, bytes), that :func:`prepare_weights` made ``prepared`` from."""
    return _backend(prepared).dense_weights(prepared, geometry)


def kernel_name(weights: Tensor) -> str:
    """The kernel that prepared weights are for."""
    if weights.dtype is torch.int32:
        return "triton"
    return cpu.weights_kernel(weights) if _backend(weights) is cpu else "reference"


def conv2d(
    words: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output = "float32",
    layout: Layout = "nchw",
) -> Tensor:
    """The binary convolution of bits with prepared weights; see :func:`.cpu.conv2d`."""
    return _backend(weights).conv2d(words, weights, geometry, epilogue, output, layout)


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
    """The binary convolution of the signs of floats with prepared weights; see :func:`.cpu.conv2d_float`."""
    return _backend(weights).conv2d_float(x, weights, geometry, epilogue, output, layout, threshold, flip)


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    """Max pooling of bits, int64 (N, H, W, words) -> (N, H', W', words); see :func:`.cpu.max_pool2d`."""
    return _choose(None, words, flip).max_pool2d(words, channels, geometry, flip)
