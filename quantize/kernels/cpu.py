"""The native backend: a ctypes binding of the plain shared library beside the package.

The library knows neither Python nor torch. It gets raw pointers, checks every size itself, and takes its
threads from the OpenMP pool that torch has already started.
"""

import ctypes
import functools
import sys
from pathlib import Path

import torch
from torch import Tensor

from .. import packing
from .geometry import ConvGeometry, Epilogue, Layout, Output

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_LAYOUTS = {"nchw": 0, "nhwc": 1}
_OUTPUTS = {"float32": 0, "int32": 1, "bits": 2}


class KernelError(ValueError):
    """The library refused its arguments; the message is its own."""


_SIZES = (
    *("batch", "channels", "height", "width", "out_channels", "kernel_h", "kernel_w", "stride_h", "stride_w"),
    *("dilation_h", "dilation_w", "pad_top", "pad_left", "pad_bottom", "pad_right", "groups"),
)


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _SIZES]


class _Binarize(ctypes.Structure):
    _fields_ = [("threshold", ctypes.c_void_p), ("flip", ctypes.c_void_p)]


class _Epilogue(ctypes.Structure):
    _fields_ = [
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("input_scale", ctypes.c_void_p),
        ("relu", ctypes.c_int32),
    ]


class _Output(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("binarize", _Binarize),
    ]


class _Parallel(ctypes.Structure):
    _fields_ = [("run", ctypes.c_void_p), ("context", ctypes.c_void_p)]


class _OpenMP(ctypes.Structure):
    _fields_ = [("parallel", ctypes.c_void_p), ("threads", ctypes.c_uint)]


def library_path() -> Path:
    """Where the shared library is, or would be."""
    return Path(__file__).parents[1] / f"libxnorkit{_SUFFIX}"


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library, or None where it was not built."""
    try:
        library = ctypes.CDLL(str(library_path()))
    except OSError:
        return None
    for name in ("xk_last_error", "xk_kernel_name", "xk_last_kernel", "xk_weights_kernel"):
        getattr(library, name).restype = ctypes.c_char_p
    library.xk_weights_kernel.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def is_available() -> bool:
    """Whether the shared library is there."""
    return _library() is not None


def available_kernels() -> list[str]:
    """Names of the kernels that this machine can run, the preferred one last."""
    library = _library()
    return [library.xk_kernel_name(i).decode() for i in range(library.xk_kernel_count())] if library else []


def last_kernel() -> str:
    """The kernel that this thread's last :func:`conv2d` ran."""
    return _library().xk_last_kernel().decode()


def weights_kernel(weights: Tensor) -> str:
    """The kernel that prepared weights are for."""
    name = _library().xk_weights_kernel(weights.data_ptr(), weights.numel())
    if name is None:
        raise KernelError("these are not weights that prepare_weights made for a kernel of this machine")
    return name.decode()


def _call(function: str, *arguments) -> None:
    library = _library()
    if getattr(library, function)(*arguments) != 0:
        raise KernelError(library.xk_last_error().decode())


@functools.cache
def _openmp_parallel() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch loaded, or None."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob(f"libtorch_cpu*{_SUFFIX}")):
        try:
            return ctypes.cast(ctypes.CDLL(str(path)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


def _parallel() -> _Parallel | None:
    """torch's threads, as many as ``torch.get_num_threads()`` says; None is the calling thread alone."""
    threads, address = torch.get_num_threads(), _openmp_parallel()
    if threads < 2 or address is None:
        return None
    context = _OpenMP(address, threads)
    parallel = _Parallel(
        ctypes.cast(_library().xk_openmp_for, ctypes.c_void_p), ctypes.cast(ctypes.pointer(context), ctypes.c_void_p)
    )
    parallel.keep_alive = context
    return parallel


def _pointer(structure: ctypes.Structure | None):
    return None if structure is None else ctypes.byref(structure)


def _address(
    name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...] | None = None
) -> ctypes.c_void_p | None:
    """Where a tensor's data is, once it is what the library will take it for."""
    if tensor is None:
        return None
    problem = None
    if tensor.dtype != dtype:
        problem = f"is {str(tensor.dtype).removeprefix('torch.')}; it must be {str(dtype).removeprefix('torch.')}"
    elif tensor.device.type != "cpu":
        problem = f"is on {tensor.device}; native kernels take CPU tensors"
    elif shape is not None and tuple(tensor.shape) != tuple(shape):
        problem = f"has shape {tuple(tensor.shape)}; it must be {tuple(shape)}"
    elif not tensor.is_contiguous():
        problem = "is not contiguous; call .contiguous() first"
    if problem:
        raise ValueError(f"{name} {problem}")
    return ctypes.c_void_p(tensor.data_ptr())


def _binarize(threshold: Tensor | None, flip: Tensor | None, channels: int) -> _Binarize:
    return _Binarize(
        _address("threshold", threshold, torch.float32, (channels,)), _address("flip", flip, torch.bool, (channels,))
    )


def _shape(geometry: ConvGeometry, batch: int, height: int, width: int) -> _Shape:
    g = geometry
    return _Shape(
        batch, g.channels, height, width, g.out_channels, *g.kernel, *g.stride, *g.dilation, *g.padding, g.groups
    )


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W), contiguous or channels-last, to bits, int64 (N, H, W, words).

    The bit of channel c is ``x >= threshold[c]``, or ``x <= threshold[c]`` where ``flip[c]`` (bool).
    """
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, C, H, W)")
    batch, channels, height, width = x.shape
    nhwc = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    address = _address("x", x.permute(0, 2, 3, 1) if nhwc else x, torch.float32)
    binarize = _binarize(threshold, flip, channels)
    words = torch.empty((batch, height, width, packing.words_for(channels)), dtype=torch.int64)
    sizes = [ctypes.c_int64(size) for size in x.shape]
    target = ctypes.c_void_p(words.data_ptr())
    _call("xk_pack", address, int(nhwc), *sizes, ctypes.byref(binarize), target, _pointer(_parallel()))
    return words


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Dense weights in the order that a kernel reads them: uint8 (bytes,), for this machine, not for a file.

    ``kernel`` forces one (so does the environment variable XNORKIT_KERNEL); otherwise the fastest for the
    geometry and, where given, the input ``size`` (height, width).
    """
    packing.check_weights(dense, geometry.filters)
    address = _address("weights", dense, torch.uint8)
    shape, name = _shape(geometry, 0, *size), kernel.encode() if kernel else None
    count = ctypes.c_size_t()
    _call("xk_weights_size", ctypes.byref(shape), name, ctypes.byref(count))
    weights = torch.empty(count.value, dtype=torch.uint8)
    source, target = ctypes.c_size_t(dense.numel()), ctypes.c_void_p(weights.data_ptr())
    _call("xk_weights_pack", ctypes.byref(shape), name, address, source, target, count)
    return weights


def _empty_output(geometry: ConvGeometry, sizes: tuple[int, int, int], output: Output, layout: Layout) -> Tensor:
    batch, height, width = sizes
    if output == "bits":
        return torch.empty((batch, height, width, packing.words_for(geometry.out_channels)), dtype=torch.int64)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    dtype = torch.float32 if output == "float32" else torch.int32
    return torch.empty((batch, geometry.out_channels, height, width), dtype=dtype, memory_format=memory_format)


def conv2d(
    words: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue | None = None,
    output: Output = "float32",
    layout: Layout = "nchw",
) -> Tensor:
    """The binary convolution of bits (N, H, W, words) with weights of :func:`prepare_weights`.

    Returns (N, out, H', W') float32 after the epilogue, or int32 sums (no epilogue), in memory order
    ``layout``; or bits, int64 (N, H', W', words).
    """
    for name, value, valid in (("output", output, _OUTPUTS), ("layout", layout, _LAYOUTS)):
        if value not in valid:
            raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")
    if words.dim() != 4:
        raise ValueError(f"words has shape {tuple(words.shape)}; it must be (N, H, W, words)")
    batch, height, width, _ = words.shape
    bits = _address("words", words, torch.int64, (batch, height, width, packing.words_for(geometry.channels)))
    prepared = _address("weights", weights, torch.uint8, (weights.numel(),))
    shape = _shape(geometry, batch, height, width)
    out_height, out_width = ctypes.c_int64(), ctypes.c_int64()
    _call("xk_output_size", ctypes.byref(shape), ctypes.byref(out_height), ctypes.byref(out_width))
    sizes = (batch, out_height.value, out_width.value)
    e = epilogue or Epilogue()
    finish = _Epilogue(
        _address("scale", e.scale, torch.float32, (geometry.out_channels,)),
        _address("bias", e.bias, torch.float32, (geometry.out_channels,)),
        _address("input_scale", e.input_scale, torch.float32, (batch, geometry.groups, *sizes[1:])),
        e.relu,
    )
    binarize = _binarize(e.threshold, e.flip, geometry.out_channels)
    result = _empty_output(geometry, sizes, output, layout)
    target = _Output(result.data_ptr(), _OUTPUTS[output], _LAYOUTS[layout], binarize)
    byte_count, parallel = ctypes.c_size_t(weights.numel()), _pointer(_parallel())
    pointers = (ctypes.byref(shape), bits, prepared, byte_count, ctypes.byref(finish), ctypes.byref(target), parallel)
    _call("xk_conv", *pointers)
    return result
