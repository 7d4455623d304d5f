"""Tensors as arguments of the library: their addresses once they are what it will take them for, sizes, and results."""

import ctypes
import functools

import torch
from torch import Tensor

from .. import packing
from . import library
from .epilogue import Epilogue, Layout, Output
from .geometry import ConvGeometry

LAYOUTS = {"nchw": 0, "nhwc": 1}
OUTPUTS = {"float32": 0, "int32": 1, "bits": 2}
AT_ZERO = library.Binarize(None, None)


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


def address(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Where a tensor's data is, once it is what the library will take it for."""
    if tensor.dtype is dtype and tensor.is_cpu and tensor.shape == shape and tensor.is_contiguous():
        return tensor.data_ptr()
    raise _mismatch(name, tensor, dtype, shape)


def weights_address(weights: Tensor) -> tuple[int, int]:
    """Address and size of weights in the order of a kernel, uint8 (bytes,)."""
    count = weights.numel()
    return address("weights", weights, torch.uint8, (count,)), count


def values(name: str, tensor: Tensor | None, channels: int, dtype: torch.dtype = torch.float32) -> int | None:
    """The address of one value a channel, where there are any."""
    return None if tensor is None else address(name, tensor, dtype, (channels,))


def input_address(x: Tensor) -> tuple[int, int]:
    """Address and layout of floats (N, C, H, W)."""
    if x.dtype is torch.float32 and x.is_cpu and x.dim() == 4 and x.is_contiguous():
        return x.data_ptr(), LAYOUTS["nchw"]
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, C, H, W)")
    layout = "nchw"
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x, layout = x.permute(0, 2, 3, 1), "nhwc"
    return address("x", x, torch.float32, x.shape), LAYOUTS[layout]


def words_address(words: Tensor, channels: int) -> tuple[int, tuple[int, int, int]]:
    """Address, and batch, height and width, of bits (N, H, W, words)."""
    if words.dim() != 4:
        raise ValueError(f"words has shape {tuple(words.shape)}; it must be (N, H, W, words)")
    batch, height, width, _ = words.shape
    shape = (batch, height, width, packing.words_for(channels))
    return address("words", words, torch.int64, shape), (batch, height, width)


def binarize(threshold: Tensor | None, flip: Tensor | None, channels: int) -> library.Binarize:
    """The library's view of a :class:`Binarize`."""
    if threshold is None and flip is None:
        return AT_ZERO
    return library.Binarize(values("threshold", threshold, channels), values("flip", flip, channels, torch.bool))


def conv_shape(geometry: ConvGeometry, batch: int, height: int, width: int) -> library.Shape:
    g = geometry
    return library.Shape(
        batch, g.channels, height, width, g.out_channels, *g.kernel, *g.stride, *g.dilation, *g.padding, g.groups
    )


@functools.lru_cache(maxsize=1024)
def checked_shape(
    geometry: ConvGeometry, batch: int, height: int, width: int
) -> tuple[library.Shape, tuple[int, int, int]]:
    """The library's view of a convolution, and batch, height and width of its output."""
    shape, out_height, out_width = conv_shape(geometry, batch, height, width), ctypes.c_int64(), ctypes.c_int64()
    library.call("xk_output_size", ctypes.byref(shape), ctypes.byref(out_height), ctypes.byref(out_width))
    return shape, (batch, out_height.value, out_width.value)


def shape_of_planes(x: Tensor, geometry: ConvGeometry) -> tuple[library.Shape, tuple[int, int, int]]:
    """:func:`checked_shape` of inputs like ``x``, which has to be floats (N, C, H, W) in rows of pixels."""
    batch, _, height, width = x.shape
    address("x", x, torch.float32, (batch, geometry.channels, height, width))
    return checked_shape(geometry, batch, height, width)


def empty_output(out_channels: int, sizes: tuple[int, int, int], output: Output, layout: Layout) -> Tensor:
    batch, height, width = sizes
    if output == "float32" and layout == "nchw":
        return torch.empty((batch, out_channels, height, width), dtype=torch.float32)
    if output == "bits":
        return torch.empty((batch, height, width, packing.words_for(out_channels)), dtype=torch.int64)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    dtype = torch.float32 if output == "float32" else torch.int32
    return torch.empty((batch, out_channels, height, width), dtype=dtype, memory_format=memory_format)


def epilogue(
    e: Epilogue, geometry: ConvGeometry, batch: int, out: tuple[int, int, int]
) -> tuple[library.Epilogue, library.Binarize]:
    """The library's view of an epilogue."""
    channels, factor = geometry.out_channels, None
    if e.input_scale is not None:
        factor = address("input_scale", e.input_scale, torch.float32, (batch, geometry.groups, *out[1:]))
    scale, bias = values("scale", e.scale, channels), values("bias", e.bias, channels)
    return library.Epilogue(scale, bias, factor, e.relu), binarize(e.threshold, e.flip, channels)
