"""The shared library beside the package: where it is, what its C interface looks like, and how to call it.

The structures and signatures are those of ``csrc/xnorkit.h``.
"""

import ctypes
import functools
import sys
from pathlib import Path

import torch

_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


class KernelError(ValueError):
    """The library refused its arguments; the message is its own."""


_SIZES = (
    *("batch", "channels", "height", "width", "out_channels", "kernel_h", "kernel_w", "stride_h", "stride_w"),
    *("dilation_h", "dilation_w", "pad_top", "pad_left", "pad_bottom", "pad_right", "groups"),
)

_POOL_SIZES = (
    *("batch", "channels", "height", "width", "kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h"),
    *("dilation_w", "pad_top", "pad_left", "pad_bottom", "pad_right", "out_height", "out_width"),
)


class Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _SIZES]


class PoolShape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _POOL_SIZES]


class Filters(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("taps", ctypes.c_int64),
        ("inputs_last", ctypes.c_int32),
        ("center", ctypes.c_int32),
    ]


class Elements(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    ]


class Binarize(ctypes.Structure):
    _fields_ = [("threshold", ctypes.c_void_p), ("flip", ctypes.c_void_p)]


class Epilogue(ctypes.Structure):
    _fields_ = [
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("input_scale", ctypes.c_void_p),
        ("relu", ctypes.c_int32),
    ]


class Output(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("layout", ctypes.c_int32),
        ("binarize", Binarize),
        ("shuffle", ctypes.c_int64),
    ]


class Interleave(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("height", "width", "step_h", "step_w")),
        ("rows", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
    ]


class LevelLayer(ctypes.Structure):
    _fields_ = [
        ("input_bits", ctypes.c_int32),
        ("weight_bits", ctypes.c_int32),
        ("weights", ctypes.c_void_p),
        ("weights_bytes", ctypes.c_size_t),
        ("totals", ctypes.c_void_p),
        ("divisor", ctypes.c_float),
        ("scale", ctypes.c_void_p),
        ("scales", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
    ]


class Argument(ctypes.Union):
    _fields_ = [("whole", ctypes.c_int64), ("number", ctypes.c_float), ("pointer", ctypes.c_void_p)]


class WrittenCall(ctypes.Structure):
    _fields_ = [("function", ctypes.c_int32), ("arguments", Argument * 8)]


# In the order of xk_function.
FUNCTIONS = (
    *("xk_pack", "xk_conv", "xk_conv_float", "xk_max_pool", "xk_max_pool_float", "xk_average_pool", "xk_level_conv"),
    *("xk_level_linear", "xk_lookup", "xk_sign_conv", "xk_sign_conv_transposed", "xk_int8_conv", "xk_float_conv"),
    "xk_pointwise",
)


class _Parallel(ctypes.Structure):
    _fields_ = [("run", ctypes.c_void_p), ("context", ctypes.c_void_p)]


class _OpenMP(ctypes.Structure):
    _fields_ = [("parallel", ctypes.c_void_p), ("threads", ctypes.c_uint)]


def path() -> Path:
    """Where the shared library is, or would be."""
    return Path(__file__).parents[1] / f"libxnorkit{_SUFFIX}"


def not_built(without: str = "") -> str:
    """What to say where there is none; ``without`` it, what happens instead."""
    fix = "install g++ or clang++ and reinstall xnorkit"
    reason = f"the native library {path().name} was not built (no C++ compiler when xnorkit was installed?)"
    return f"{reason}: {without}; {fix}" if without else f"{reason}: {fix}"


POINTER, SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES = {
    "xk_pack": [POINTER, ctypes.c_int32, *[ctypes.c_int64] * 4, POINTER, POINTER, POINTER],
    "xk_output_size": [POINTER] * 3,
    "xk_weights_size": [POINTER, ctypes.c_char_p, POINTER],
    "xk_weights_pack": [POINTER, ctypes.c_char_p, POINTER, SIZE, POINTER, SIZE],
    "xk_weights_unpack": [POINTER, POINTER, SIZE, POINTER, SIZE],
    "xk_weights_kernel": [POINTER, SIZE],
    "xk_conv": [POINTER, POINTER, POINTER, SIZE, POINTER, POINTER, POINTER],
    "xk_conv_float": [POINTER, POINTER, ctypes.c_int32, POINTER, POINTER, SIZE, POINTER, POINTER, POINTER],
    "xk_max_pool_size": [POINTER] * 2,
    "xk_max_pool": [POINTER] * 5,
    "xk_max_pool_float": [POINTER] * 4,
    "xk_average_pool": [POINTER] * 4,
    "xk_levels": [POINTER, *[ctypes.c_int64] * 2, ctypes.c_int32, *[POINTER] * 4],
    "xk_level_conv": [POINTER] * 5,
    "xk_level_linear": [*[ctypes.c_int64] * 3, *[POINTER] * 4],
    "xk_lookup_size": [ctypes.c_int64, ctypes.c_int64, POINTER],
    "xk_lookup_pack": [ctypes.c_int64, ctypes.c_int64, POINTER, SIZE, POINTER, SIZE],
    "xk_lookup": [*[ctypes.c_int64] * 3, POINTER, POINTER, SIZE, POINTER, POINTER],
    "xk_sign_conv_size": [POINTER, ctypes.c_int32, POINTER],
    "xk_sign_conv_pack": [POINTER, ctypes.c_int32, POINTER, SIZE, POINTER, SIZE],
    "xk_sign_conv": [*[POINTER] * 3, SIZE, *[POINTER] * 4],
    "xk_sign_conv_transposed": [*[POINTER] * 4, SIZE, *[POINTER] * 4],
    "xk_sign_conv_is_fast": [],
    "xk_int8_size": [POINTER] * 2,
    "xk_int8_pack": [POINTER, POINTER, SIZE, ctypes.c_int32, POINTER, SIZE],
    "xk_int8_conv": [POINTER, POINTER, ctypes.c_float, POINTER, SIZE, *[POINTER] * 3],
    "xk_float_size": [POINTER] * 2,
    "xk_float_pack": [POINTER, POINTER, SIZE, ctypes.c_int32, POINTER, SIZE],
    "xk_float_conv": [POINTER, POINTER, POINTER, SIZE, *[POINTER] * 3],
    "xk_pointwise": [POINTER, ctypes.c_int32, *[POINTER] * 4],
    "xk_run": [POINTER, ctypes.c_int64, POINTER],
    "xk_sign": [*[POINTER] * 3, ctypes.c_int32, *[POINTER] * 4],
    "xk_signs": [POINTER] * 4,
    "xk_pass_inside": [POINTER] * 6,
    "xk_pass_triangle": [POINTER] * 7,
    "xk_pixel_words": [POINTER, ctypes.c_int32, *[ctypes.c_int64] * 3, *[POINTER] * 2],
    "xk_scaled_sign": [POINTER] * 7,
    "xk_filter_signs": [POINTER] * 6,
    "xk_scaled_sign_gradient": [POINTER] * 7,
}


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library, or None where it was not built."""
    try:
        library = ctypes.CDLL(str(path()))
    except OSError:
        return None
    for name, types in _SIGNATURES.items():
        getattr(library, name).argtypes = types
    for name in ("xk_last_error", "xk_kernel_name", "xk_last_kernel", "xk_weights_kernel"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def loaded() -> ctypes.CDLL:
    """The library; :class:`KernelError` where it was not built."""
    library = load()
    if library is None:
        raise KernelError(not_built())
    return library


def call(function: str, *arguments) -> None:
    """Calls a function that returns a status; raises :class:`KernelError` with the library's own words."""
    check(getattr(loaded(), function)(*arguments))  # ctypes looks a name up once


def check(status: int) -> None:
    """Raises :class:`KernelError`, with the library's own words, where a function returned that it refuses."""
    if status != 0:
        raise KernelError(loaded().xk_last_error().decode())


@functools.cache
def _openmp_parallel() -> int | None:
    """Address of GOMP_parallel in the OpenMP runtime that torch loaded, or None."""
    for candidate in sorted((Path(torch.__file__).parent / "lib").glob(f"libtorch_cpu*{_SUFFIX}")):
        try:
            return ctypes.cast(ctypes.CDLL(str(candidate)).GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None


@functools.cache
def _pool(threads: int) -> _Parallel | None:
    address = _openmp_parallel()
    if threads < 2 or address is None:
        return None
    context = _OpenMP(address, threads)
    pool = _Parallel(ctypes.cast(loaded().xk_openmp_for, POINTER), ctypes.cast(ctypes.pointer(context), POINTER))
    pool.keep_alive = context
    return pool


def parallel():
    """torch's threads, as many as ``torch.get_num_threads()`` says; None is the calling thread alone."""
    pool = _pool(torch.get_num_threads())
    return None if pool is None else ctypes.byref(pool)
