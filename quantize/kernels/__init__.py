"""Binary convolutions and max pooling on bits, and the choice of who computes them.

The native library where it was built (:mod:`.cpu`), else the reference (:mod:`.reference`) with one warning.
Weights are prepared once for a backend, which then runs them: prepared native weights are flat, the
reference's are the dense ones.
"""

import functools
import os
import warnings
from types import ModuleType

from torch import Tensor

from . import cpu, library, reference
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
    """Names for ``kernel=`` and XNORKIT_KERNEL on this machine: "reference", then native ones, the best last."""
    return ["reference", *cpu.available_kernels()]


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        f"the native library {library.path().name} was not built (no C++ compiler when xnorkit was installed?): "
        "binary layers run the slow reference kernels. Install g++ or clang++ and reinstall xnorkit",
        RuntimeWarning,
        stacklevel=3,
    )


def _native(kernel: str | None, *tensors: Tensor | None) -> bool:
    if (kernel or os.environ.get("XNORKIT_KERNEL")) == "reference":
        return False
    if any(t is not None and t.device.type != "cpu" for t in tensors):
        return False
    if not cpu.is_available():
        _warn_once()
        return False
    return True


def _backend(weights: Tensor) -> ModuleType:
    return cpu if weights.dim() == 1 else reference


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W) to bits, int64 (N, H, W, words); see :func:`quantize.packing.pack_activations`."""
    return (cpu if _native(None, x) else reference).pack(x, threshold, flip)


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Dense weights, uint8 (out, bytes), in the order a kernel reads them; see :func:`.cpu.prepare_weights`."""
    backend = cpu if _native(kernel, dense) else reference
    return backend.prepare_weights(dense, geometry, kernel, size)


def dense_weights(prepared: Tensor, geometry: ConvGeometry) -> Tensor:
    """The dense weights, uint8 (out, bytes), that :func:`prepare_weights` made ``prepared`` from."""
    return _backend(prepared).dense_weights(prepared, geometry)


def kernel_name(weights: Tensor) -> str:
    """The kernel that prepared weights are for."""
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
    backend = cpu if _native(None, words, flip) else reference
    return backend.max_pool2d(words, channels, geometry, flip)
