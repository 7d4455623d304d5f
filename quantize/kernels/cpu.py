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


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES = {
    "xk_pack": [_POINTER, ctypes.c_int32, *[ctypes.c_int64] * 4, _POINTER, _POINTER, _POINTER],
    "xk_output_size": [_POINTER] * 3,
    "xk_weights_size": [_POINTER, ctypes.c_char_p, _POINTER],
    "xk_weights_pack": [_POINTER, ctypes.c_char_p, _POINTER, _SIZE, _POINTER, _SIZE],
    "xk_weights_kernel": [_POINTER, _SIZE],
    "xk_conv": [_POINTER, _POINTER, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER],
    "xk_conv_float": [_POINTER, _POINTER, ctypes.c_int32, _POINTER, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER],
}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The library, or None where it was not built."""
    try:
        library = ctypes.CDLL(str(library_path()))
    except OSError:
        return None
    for name, types in _SIGNATURES.items():
        getattr(library, name).argtypes = types
    for name in ("xk_last_error", "xk_kernel_name", "xk_last_kernel", "xk_weights_kernel"):
        getattr(library, name).restype = ctypes.c_char_p
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


@functools.cache
def _pool(threads: int) -> _Parallel | None:
    address = _openmp_parallel()
    if threads < 2 or address is None:
        return None
    context = _OpenMP(address, threads)
    pool = _Parallel(ctypes.cast(_library().xk_openmp_for, _POINTER), ctypes.cast(ctypes.pointer(context), _POINTER))
    pool.keep_alive = context
    return pool


def _parallel():
    """torch's threads, as many as ``torch.get_num_threads()`` says; None is the calling thread alone."""
    pool = _pool(torch.get_num_threads())
    return None if pool is None else ctypes.byref(pool)


def _mismatch(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> ValueError:
    if tensor.dtype != dtype:
        problem = f"is {str(tensor.dtype).removeprefix('torch.')}; it must be {str(dtype).removeprefix('torch.')}"
    elif tensor.device.type != "cpu":
        problem = f"is on {tensor.device}; native kernels take CPU tensors"
    elif tensor.shape != shape:
        problem = f"has shape {tuple(tensor.shape)}; it must be {tuple(shape)}"
    else:
        problem = "is not contiguous; call .contiguous() first"
    return ValueError(f"{name} {problem}")


def _address(name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> int | None:
    """Where a tensor's data is, once it is what the library will take it for."""
    if tensor is None:
        return None
    if tensor.dtype is dtype and tensor.is_cpu and tensor.shape == shape and tensor.is_contiguous():
        return tensor.data_ptr()
    raise _mismatch(name, tensor, dtype, shape)


def _input_address(x: Tensor) -> tuple[int, int]:
    """Address and layout of floats (N, C, H, W)."""
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, C, H, W)")
    layout = "nchw"
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x, layout = x.permute(0, 2, 3, 1), "nhwc"
    return _address("x", x, torch.float32, x.shape), _LAYOUTS[layout]


def _binarize(threshold: Tensor | None, flip: Tensor | None, channels: int) -> _Binarize:
    return _Binarize(
        _address("threshold", threshold, torch.float32, (channels,)), _address("flip", flip, torch.bool, (channels,))
    )


def _shape(geometry: ConvGeometry, batch: int, height: int, width: int) -> _Shape:
    g = geometry
    return _Shape(
        batch, g.channels, height, width, g.out_channels, *g.kernel, *g.stride, *g.dilation, *g.padding, g.groups
    )


@functools.lru_cache(maxsize=1024)
def _checked_shape(geometry: ConvGeometry, batch: int, height: int, width: int) -> tuple[_Shape, tuple[int, int, int]]:
    """The library's view of a convolution, and batch, height and width of its output."""
    shape, out_height, out_width = _shape(geometry, batch, height, width), ctypes.c_int64(), ctypes.c_int64()
    _call("xk_output_size", ctypes.byref(shape), ctypes.byref(out_height), ctypes.byref(out_width))
    return shape, (batch, out_height.value, out_width.value)


def pack(x: Tensor, threshold: Tensor | None = None, flip: Tensor | None = None) -> Tensor:
    """Floats (N, C, H, W), contiguous or channels-last, to bits, int64 (N, H, W, words).

    The bit of channel c is ``x >= threshold[c]``, or ``x <= threshold[c]`` where ``flip[c]`` (bool).
    """
    address, layout = _input_address(x)
    batch, channels, height, width = x.shape
    binarize = _binarize(threshold, flip, channels)
    words = torch.empty((batch, height, width, packing.words_for(channels)), dtype=torch.int64)
    _call("xk_pack", address, layout, *x.shape, ctypes.byref(binarize), words.data_ptr(), _parallel())
    return words


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """Dense weights in the order that a kernel reads them: uint8 (bytes,), for this machine, not for a file.

    ``kernel`` forces one (so does the environment variable XNORKIT_KERNEL); otherwise the fastest for the
    geometry and, where given, the input ``size`` (height, width).
    """
    packing.check_weights(dense, geometry.filters)
    source = _address("weights", dense, torch.uint8, dense.shape)
    shape, name = ctypes.byref(_shape(geometry, 0, *size)), kernel.encode() if kernel else None
    count = _SIZE()
    _call("xk_weights_size", shape, name, ctypes.byref(count))
    weights = torch.empty(count.value, dtype=torch.uint8)
    _call("xk_weights_pack", shape, name, source, dense.numel(), weights.data_ptr(), count)
    return weights


def _check_choice(name: str, value: str, valid: dict[str, int]) -> int:
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")
    return valid[value]


def _empty_output(out_channels: int, sizes: tuple[int, int, int], output: Output, layout: Layout) -> Tensor:
    batch, height, width = sizes
    if output == "bits":
        return torch.empty((batch, height, width, packing.words_for(out_channels)), dtype=torch.int64)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    dtype = torch.float32 if output == "float32" else torch.int32
    return torch.empty((batch, out_channels, height, width), dtype=dtype, memory_format=memory_format)


def _convolve(
    function: str,
    source: tuple,
    sizes: tuple[int, int, int],
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue | None,
    output: Output,
    layout: Layout,
) -> Tensor:
    """Calls ``function`` with the shape, ``source`` (its input), and what all convolutions have in common."""
    kind, order = _check_choice("output", output, _OUTPUTS), _check_choice("layout", layout, _LAYOUTS)
    e, channels = epilogue or Epilogue(), geometry.out_channels
    shape, out = _checked_shape(geometry, *sizes)
    finish = _Epilogue(
        _address("scale", e.scale, torch.float32, (channels,)),
        _address("bias", e.bias, torch.float32, (channels,)),
        _address("input_scale", e.input_scale, torch.float32, (sizes[0], geometry.groups, *out[1:])),
        e.relu,
    )
    binarize = _binarize(e.threshold, e.flip, channels)
    prepared = _address("weights", weights, torch.uint8, (weights.numel(),))
    result = _empty_output(channels, out, output, layout)
    target = _Output(result.data_ptr(), kind, order, binarize)
    common = (prepared, weights.numel(), ctypes.byref(finish), ctypes.byref(target), _parallel())
    _call(function, ctypes.byref(shape), *source, *common)
    return result


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
    if words.dim() != 4:
        raise ValueError(f"words has shape {tuple(words.shape)}; it must be (N, H, W, words)")
    sizes = tuple(words.shape[:3])
    bits = _address("words", words, torch.int64, (*sizes, packing.words_for(geometry.channels)))
    return _convolve("xk_conv", (bits,), sizes, weights, geometry, epilogue, output, layout)


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
    """:func:`pack` and :func:`conv2d` in one call, of floats (N, C, H, W)."""
    address, input_layout = _input_address(x)
    batch, channels, height, width = x.shape
    if channels != geometry.channels:
        raise ValueError(f"x has {channels} channels; the convolution takes {geometry.channels}")
    binarize = _binarize(threshold, flip, channels)
    source, sizes = (address, input_layout, ctypes.byref(binarize)), (batch, height, width)
    return _convolve("xk_conv_float", source, sizes, weights, geometry, epilogue, output, layout)
