"""Binary convolutions and max pooling on bits, and the choice of who computes them.

On the CPU the native library where it was built (:mod:`.cpu`), else the reference (:mod:`.reference`) with one
warning; on CUDA devices Triton kernels (:mod:`.cuda`); on others the reference. A convolution's backend is chosen
once, when its weights are prepared.
"""

import functools
import os
import warnings

import torch
from torch import Tensor

from .. import packing
from . import cpu, cpu_layers, cpu_signs, library, reference
from .backend import Backend, PreparedWeights
from .epilogue import PLAIN, Binarize, Epilogue, Layout, Output
from .geometry import ConvGeometry, PoolGeometry
from .training import TrainingBackend

__all__ = [
    "Backend",
    "Binarize",
    "ConvGeometry",
    "Epilogue",
    "Layout",
    "Output",
    "PoolGeometry",
    "PreparedWeights",
    "TrainingBackend",
    "available_kernels",
    "conv2d",
    "conv2d_float",
    "dense_weights",
    "is_native",
    "kernel_name",
    "levels_of_codes",
    "max_pool2d",
    "pack",
    "prepare_weights",
    "training_backend",
    "weights_of_tensor",
]


def available_kernels() -> list[str]:
    """Names for ``kernel=`` and XNORKIT_KERNEL on this machine's CPU: "reference", then native ones, the best last."""
    return ["reference", *cpu.available_kernels()]


@functools.cache
def _warn_once() -> None:
    message = library.not_built("binary layers run the slow reference kernels")
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _triton() -> Backend:
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


def _choose(kernel: str | None, tensor: Tensor) -> Backend:
    """The backend for a tensor's device, or the one that ``kernel`` or XNORKIT_KERNEL forces."""
    forced, device = kernel or os.environ.get("XNORKIT_KERNEL"), tensor.device.type
    if forced == "reference":
        return reference
    if forced == "triton" or device == "cuda":
        return _triton()
    if device != "cpu":
        return reference
    if not cpu.is_available():
        _warn_once()
        return reference
    return cpu


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> PreparedWeights:
    """Dense weights, uint8 (out, bytes), for a backend's kernel; see :meth:`Backend.prepare_weights`."""
    backend = _choose(kernel, dense)
    return PreparedWeights(backend, backend.prepare_weights(dense, geometry, kernel, size))


def training_backend(x: Tensor) -> TrainingBackend | None:
    """Who computes signs and their gradients in training on tensors such as ``x``; None: plain torch does."""
    forced = os.environ.get("XNORKIT_KERNEL")
    if forced == "reference":
        return None
    if forced != "triton" and x.device.type != "cuda":
        return cpu_signs
    try:
        from .cuda import signs
    except ImportError:  # no Triton: training needs none
        return None
    return signs


def weights_of_tensor(data: Tensor) -> PreparedWeights:
    """Prepared weights of which the data alone came through an operator of torch, where values are plain tensors.

    Each backend's have a form of their own: Triton's are flat int32, the library's flat bytes, the reference's dense.
    """
    if data.dtype is torch.int32:
        return PreparedWeights(_triton(), data)
    return PreparedWeights(cpu if data.dim() == 1 else reference, data)


def is_native(tensor: Tensor) -> bool:
    """Whether the native library computes on tensors such as this."""
    return _choose(None, tensor) is cpu


def levels_of_codes(codes: Tensor, count: int, bits: int, levels: Tensor, scale: Tensor | None = None) -> Tensor:
    """What stored codes stand for, (rows, count).

    Args:
        codes: uint8 (rows, bytes); ``count`` codes a row, of ``bits`` bits each, least significant bit first.
        levels: (2^bits,), of any float dtype.
        scale: a factor a row, (rows,), or None.
    """
    if codes.numel() and levels.dtype is torch.float32 and is_native(codes):
        return cpu_layers.levels_of_codes(codes, count, bits, levels, scale)
    values = packing.codes_to_levels(codes, count, bits, levels)
    return values if scale is None else values * scale.view(-1, 1)


# One call each, of a caller without a layer that holds the parts together.


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W) to bits, int64 (N, H, W, words); see :class:`Binarize`."""
    return _choose(None, x).pack(x, Binarize(threshold, flip))


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    """Max pooling of bits, int64 (N, H, W, words) -> (N, H', W', words); see :meth:`Backend.max_pool2d`."""
    return _choose(None, words).max_pool2d(words, channels, geometry, flip)


def dense_weights(weights: PreparedWeights, geometry: ConvGeometry) -> Tensor:
    """The dense weights, uint8 (out, bytes), that :func:`prepare_weights` made ``weights`` from."""
    return weights.backend.dense_weights(weights.data, geometry)


def kernel_name(weights: PreparedWeights) -> str:
    """The kernel that prepared weights are for."""
    return weights.backend.kernel_name(weights.data)


def conv2d(
    words: Tensor,
    weights: PreparedWeights,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output | None = None,
    layout: Layout = "nchw",
) -> Tensor:
    """The binary convolution of bits; ``output`` is the epilogue's where it is None. See :meth:`Backend.conv2d`."""
    return weights.backend.conv2d(words, weights.data, geometry, _whole(epilogue, output), layout)


def conv2d_float(
    x: Tensor,
    weights: PreparedWeights,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output | None = None,
    layout: Layout = "nchw",
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
) -> Tensor:
    """The binary convolution of the signs of floats; see :func:`conv2d` and :func:`pack`."""
    whole = _whole(epilogue, output)
    return weights.backend.conv2d_float(x, weights.data, geometry, whole, layout, Binarize(threshold, flip))


def _whole(epilogue: Epilogue | None, output: Output | None) -> Epilogue:
    epilogue = PLAIN if epilogue is None else epilogue
    return epilogue if output is None else epilogue._replace(output=output)
