"""The binary convolution as a torch operator, so that packed models export, compile and run in inference mode.

``torch.ops.xnorkit.conv2d`` and ``torch.ops.xnorkit.max_pool2d`` call :mod:`quantize.kernels`. Each has a fake
implementation (shapes without data) and refuses autograd: bits have no gradient.
"""

import functools

import torch
from torch import Tensor

from .. import kernels, packing
from ..kernels import ConvGeometry, Epilogue, PoolGeometry

_LIBRARY = torch.library.Library("xnorkit", "DEF")
_LIBRARY.define(
    "conv2d(Tensor x, Tensor weights, int[] geometry, Tensor? scale=None, Tensor? bias=None, "
    "Tensor? input_scale=None, Tensor? threshold=None, Tensor? flip=None, Tensor? output_threshold=None, "
    "Tensor? output_flip=None, bool relu=False, int shuffle=1, bool bits=False) -> Tensor"
)
_LIBRARY.define("max_pool2d(Tensor words, int channels, int[] geometry, Tensor? flip=None) -> Tensor")


@functools.lru_cache(maxsize=1024)
def _conv_geometry(sizes: tuple[int, ...]) -> ConvGeometry:
    """The inverse of :func:`flatten_geometry`."""
    channels, out_channels, groups, *rest = sizes
    return ConvGeometry(
        channels, out_channels, tuple(rest[:2]), tuple(rest[2:4]), tuple(rest[4:8]), tuple(rest[8:]), groups
    )


def flatten_geometry(g: ConvGeometry) -> tuple[int, ...]:
    """A convolution's geometry as the integers that the operator takes."""
    return (g.channels, g.out_channels, g.groups, *g.kernel, *g.stride, *g.padding, *g.dilation)


@functools.lru_cache(maxsize=1024)
def _pool_geometry(sizes: tuple[int, ...]) -> PoolGeometry:
    """The inverse of :func:`flatten_pool`."""
    return PoolGeometry(tuple(sizes[:2]), tuple(sizes[2:4]), tuple(sizes[4:8]), tuple(sizes[8:10]), tuple(sizes[10:]))


def flatten_pool(g: PoolGeometry) -> tuple[int, ...]:
    """A pooling's geometry as the integers that the operator takes."""
    return (*g.kernel, *g.stride, *g.padding, *g.dilation, *g.output)


def refuse_gradient(x: Tensor) -> None:
    """Raises RuntimeError where autograd would follow ``x`` into a packed layer."""
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "packed layers have no gradient: their weights are bits. Train the model that quantize.prepare returned "
            "and convert it afterwards; run a packed model on inputs that need no gradient, or under torch.no_grad()"
        )


def _conv2d(
    x: Tensor,
    weights: Tensor,
    geometry: list[int],
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
    threshold: Tensor | None = None,
    flip: Tensor | None = None,
    output_threshold: Tensor | None = None,
    output_flip: Tensor | None = None,
    relu: bool = False,
    shuffle: int = 1,
    bits: bool = False,
) -> Tensor:
    """The operator: :func:`convolve` with the geometry as integers."""
    g = _conv_geometry(tuple(geometry))
    return _compute(
        x, weights, g, scale, bias, input_scale, threshold, flip, output_threshold, output_flip, relu, shuffle, bits
    )


def _compute(
    x, weights, g, scale, bias, input_scale, threshold, flip, output_threshold, output_flip, relu, shuffle, bits
):
    refuse_gradient(x)
    if not x.numel() and (not len(x) or g.kernel == (1, 1)):  # no sample, or no row
        return _conv2d_fake(x, weights, flatten_geometry(g), relu=relu, bits=bits)
    finish = Epilogue(scale, bias, input_scale, relu, threshold=output_threshold, flip=output_flip, shuffle=shuffle)
    output = "bits" if bits else "float32"
    if x.dtype is torch.int64:
        return kernels.conv2d(x, weights, g, finish, output)
    return kernels.conv2d_float(x, weights, g, finish, output, _layout(x), threshold, flip)


def _layout(x: Tensor) -> str:
    rows = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return "nhwc" if rows else "nchw"


def _conv2d_fake(
    x, weights, geometry, scale=None, bias=None, input_scale=None, threshold=None, flip=None,
    output_threshold=None, output_flip=None, relu=False, shuffle=1, bits=False,
):  # fmt: skip
    refuse_gradient(x)
    g = _conv_geometry(tuple(geometry))
    packed = x.dtype is torch.int64
    batch, *size = x.shape[:3] if packed else (x.shape[0], *x.shape[2:])
    height, width = g.output_size(*size)
    if bits:
        return x.new_empty((batch, height, width, packing.words_for(g.out_channels)), dtype=torch.int64)
    result = x.new_empty((batch, g.out_channels, height, width), dtype=torch.float32 if packed else x.dtype)
    rows = not packed and _layout(x) == "nhwc"
    return result.contiguous(memory_format=torch.channels_last) if rows else result


def convolve(x: Tensor, weights: Tensor, geometry: ConvGeometry, *finish) -> Tensor:
    """Floats (N, C, H, W), or bits (int64 words), to floats in the same memory order, or to bits.

    ``finish`` are the operator's further arguments. It is called where something traces; otherwise the kernel is,
    without the dispatcher, which takes as long as a small convolution.
    """
    if type(x) is Tensor and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        return _compute(x, weights, geometry, *finish)
    return conv2d(x, weights, flatten_geometry(geometry), *finish)


def _max_pool2d(words: Tensor, channels: int, geometry: list[int], flip: Tensor | None = None) -> Tensor:
    """Max pooling of bits, int64 (N, H, W, words) -> (N, H', W', words)."""
    if not words.numel():
        return _max_pool2d_fake(words, channels, geometry)
    return kernels.max_pool2d(words, channels, _pool_geometry(tuple(geometry)), flip)


def _max_pool2d_fake(words, channels, geometry, flip=None):
    height, width = _pool_geometry(tuple(geometry)).output
    return words.new_empty((words.shape[0], height, width, words.shape[3]))


for _name, _function, _fake in (("conv2d", _conv2d, _conv2d_fake), ("max_pool2d", _max_pool2d, _max_pool2d_fake)):
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"xnorkit::{_name}", _fake, lib=_LIBRARY)

conv2d = torch.ops.xnorkit.conv2d.default
max_pool2d = torch.ops.xnorkit.max_pool2d.default
