"""Binary convolution and max pooling of packed models: called at once, or as torch operators where something traces.

An operator, ``torch.ops.xnorkit.conv2d`` or ``max_pool2d``, takes plain tensors and integers, so that packed models
export, compile and run under autograd's eyes. It has a fake implementation (shapes without data) and refuses
gradients: bits have none. Called at once, it does without the dispatcher, which takes as long as a small convolution;
called again with an input of the same form, without all that was found out for the one before.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import is_tracing

from .. import kernels, packing
from ..kept_bits import is_transformed
from ..kernels import Binarize, ConvGeometry, Epilogue, Layout, Output, PoolGeometry, PreparedWeights
from ..kernels.calls import Call

_LIBRARY = torch.library.Library("xnorkit", "DEF")
_LIBRARY.define(
    "conv2d(Tensor x, Tensor weights, int[] geometry, Tensor? scale=None, Tensor? bias=None, "
    "Tensor? input_scale=None, Tensor? threshold=None, Tensor? flip=None, Tensor? output_threshold=None, "
    "Tensor? output_flip=None, bool relu=False, int shuffle=1, bool bits=False) -> Tensor"
)
_LIBRARY.define("max_pool2d(Tensor words, int channels, int[] geometry, Tensor? flip=None) -> Tensor")


def is_traced(x: Tensor) -> bool:
    """Whether what is computed on ``x`` is written down, so that it must be operators."""
    return type(x) is not Tensor or is_compiling() or is_tracing()


def refuse_gradient(x: Tensor) -> None:
    """Raises RuntimeError where autograd would follow ``x`` into a packed layer."""
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "packed layers have no gradient: their weights are bits. Train the model that quantize.prepare returned "
            "and convert it afterwards; run a packed model on inputs that need no gradient, or under torch.no_grad()"
        )


def is_followed(x: Tensor) -> bool:
    """Whether what is computed on ``x`` is written down, transformed, or needs a gradient."""
    return (x.requires_grad and torch.is_grad_enabled()) or is_traced(x) or is_transformed()


# Inputs of one form, one after the other.


def form_of(x: Tensor) -> tuple[Any, ...]:
    """What inputs have in common that are treated alike: all but their values and where they lie."""
    return x.shape, x.stride(), x.dtype, x.device


class BoundCall:
    """A call for inputs of the form of ``x``, whose result has the form of ``y``.

    Args:
        call: of the addresses of an input and of its result.
        of: what the module was like when the call was made up; see :meth:`takes`.
    """

    def __init__(self, call: Call, x: Tensor, y: Tensor, of: Any):
        self.call, self.of, self.form = call, of, form_of(x)
        self.shape, self.stride, self.dtype = tuple(y.shape), y.stride(), y.dtype

    def takes(self, x: Tensor) -> bool:
        """Whether ``x`` has the form, and nobody writes down or follows what is computed on it."""
        return form_of(x) == self.form and not is_followed(x)

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.empty_strided(self.shape, self.stride, dtype=self.dtype)
        self.call(x.data_ptr(), y.data_ptr())
        return y


class BoundModule(nn.Module):
    """A module that binds a call when two inputs of one form have come, one after the other."""

    bound: BoundCall | None = None
    last_form: tuple[Any, ...] = ()

    def comes_again(self, x: Tensor) -> bool:
        """Whether the input before had the form of ``x`` too."""
        form = form_of(x)
        again, self.last_form = form == self.last_form, form
        return again

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "bound": None, "last_form": ()}  # addresses of this process


# The convolution.


def convolve(
    x: Tensor,
    weights: PreparedWeights,
    geometry: ConvGeometry,
    binarize: Binarize,
    epilogue: Epilogue,
    layout: Layout | None = None,
) -> Tensor:
    """Floats (N, C, H, W), or bits (int64 words), to bits, or to floats in this memory order, or in that of ``x``."""
    refuse_gradient(x)
    if not x.numel() and (not len(x) or geometry.kernel == (1, 1)):  # no sample, or no row
        return _empty_output(x, geometry, epilogue)
    layout = layout or layout_of(x)
    if x.dtype is torch.int64:
        return weights.backend.conv2d(x, weights.data, geometry, epilogue, layout)
    return weights.backend.conv2d_float(x, weights.data, geometry, epilogue, layout, binarize)


def layout_of(x: Tensor) -> Layout:
    """The memory order of an image, (N, C, H, W); that of words makes no order of floats: "nchw"."""
    if x.dtype is torch.int64:
        return "nchw"
    rows = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return "nhwc" if rows else "nchw"


def _empty_output(x: Tensor, g: ConvGeometry, epilogue: Epilogue) -> Tensor:
    """A tensor like the output of :func:`convolve`, without its values."""
    packed = x.dtype is torch.int64
    batch, *size = x.shape[:3] if packed else (x.shape[0], *x.shape[2:])
    height, width = g.output_size(*size)
    if epilogue.output == "bits":
        return x.new_empty((batch, height, width, packing.words_for(g.out_channels)), dtype=torch.int64)
    result = x.new_empty((batch, g.out_channels, height, width), dtype=torch.float32 if packed else x.dtype)
    rows = not packed and layout_of(x) == "nhwc"
    return result.contiguous(memory_format=torch.channels_last) if rows else result


def convolve_traced(
    x: Tensor, weights: PreparedWeights, geometry: ConvGeometry, binarize: Binarize, epilogue: Epilogue
) -> Tensor:
    """:func:`convolve` as the operator."""
    e, bits = epilogue, epilogue.output == "bits"
    values = (e.scale, e.bias, e.input_scale, *binarize, e.threshold, e.flip, e.relu, e.shuffle, bits)
    return conv2d(x, weights.data, flatten_geometry(geometry), *values)


def flatten_geometry(g: ConvGeometry) -> tuple[int, ...]:
    """A convolution's geometry as the integers that the operator takes."""
    return (g.channels, g.out_channels, g.groups, *g.kernel, *g.stride, *g.padding, *g.dilation)


@functools.lru_cache(maxsize=1024)
def _conv_geometry(
    channels: int, out_channels: int, groups: int, kh: int, kw: int, sh: int, sw: int,
    top: int, left: int, bottom: int, right: int, dh: int, dw: int,
) -> ConvGeometry:  # fmt: skip
    """The inverse of :func:`flatten_geometry`."""
    padding = (top, left, bottom, right)
    return ConvGeometry(channels, out_channels, (kh, kw), (sh, sw), padding, (dh, dw), groups)


def _of_operator(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``compute`` with the operator's arguments: the inverse of :func:`convolve_traced`."""

    def function(
        x, weights, geometry, scale=None, bias=None, input_scale=None, threshold=None, flip=None,
        output_threshold=None, output_flip=None, relu=False, shuffle=1, bits=False,
    ):  # fmt: skip
        output: Output = "bits" if bits else "float32"
        epilogue = Epilogue(scale, bias, input_scale, relu, output_threshold, output_flip, shuffle, output)
        return compute(x, weights, _conv_geometry(*geometry), Binarize(threshold, flip), epilogue)

    return function


def _convolve(x: Tensor, weights: Tensor, *rest) -> Tensor:
    return convolve(x, kernels.weights_of_tensor(weights), *rest)


def _fake_convolve(x, _weights, geometry, _binarize, epilogue) -> Tensor:
    refuse_gradient(x)
    return _empty_output(x, geometry, epilogue)


# Max pooling.


def pool(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None) -> Tensor:
    """Max pooling of bits, int64 (N, H, W, words) -> (N, H', W', words)."""
    if is_traced(words):
        return max_pool2d(words, channels, flatten_pool(geometry), flip)
    return _pool(words, channels, geometry, flip)


def _pool(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None) -> Tensor:
    if not words.numel():
        return _fake_pool(words, channels, geometry, flip)
    return kernels.max_pool2d(words, channels, geometry, flip)


def _fake_pool(words: Tensor, _channels: int, geometry: PoolGeometry, _flip: Tensor | None) -> Tensor:
    return words.new_empty((words.shape[0], *geometry.output, words.shape[3]))


def flatten_pool(g: PoolGeometry) -> tuple[int, ...]:
    """A pooling's geometry as the integers that the operator takes."""
    return (*g.kernel, *g.stride, *g.padding, *g.dilation, *g.output)


def _pool_of_operator(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def function(words, channels, geometry, flip=None):
        kh, kw, sh, sw, top, left, bottom, right, dh, dw, height, width = geometry
        sizes = PoolGeometry((kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw), (height, width))
        return compute(words, channels, sizes, flip)

    return function


for _name, _function, _fake in (
    ("conv2d", _of_operator(_convolve), _of_operator(_fake_convolve)),
    ("max_pool2d", _pool_of_operator(_pool), _pool_of_operator(_fake_pool)),
):
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"xnorkit::{_name}", _fake, lib=_LIBRARY)

conv2d = torch.ops.xnorkit.conv2d.default
max_pool2d = torch.ops.xnorkit.max_pool2d.default
