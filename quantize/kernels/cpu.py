"""The native backend, a :class:`.backend.Backend`: the shared library carries the operations out (:mod:`.library`).

The library knows neither Python nor torch. It gets raw pointers, checks every size itself, and takes its
threads from the OpenMP pool that torch has already started.
"""

import ctypes
import functools

import torch
from torch import Tensor

from .. import packing
from . import arguments, library
from .calls import Call
from .epilogue import AT_ZERO, PLAIN, Binarize, Epilogue, Layout, check_epilogue
from .geometry import ConvGeometry, PoolGeometry


def is_available() -> bool:
    """Whether the shared library is there."""
    return library.load() is not None


def available_kernels() -> list[str]:
    """Names of the kernels that this machine can run, the preferred one last."""
    lib = library.load()
    return [lib.xk_kernel_name(i).decode() for i in range(lib.xk_kernel_count())] if lib else []


def last_kernel() -> str:
    """The kernel that this thread's last :func:`conv2d` ran."""
    return library.loaded().xk_last_kernel().decode()


def kernel_name(weights: Tensor) -> str:
    name = library.loaded().xk_weights_kernel(weights.data_ptr(), weights.numel())
    if name is None:
        raise library.KernelError("these are not weights that prepare_weights made for a kernel of this machine")
    return name.decode()


def pack(x: Tensor, binarize: Binarize = AT_ZERO) -> Tensor:
    address, layout = arguments.input_address(x)
    batch, channels, height, width = x.shape
    level = arguments.binarize(*binarize, channels)
    words = torch.empty((batch, height, width, packing.words_for(channels)), dtype=torch.int64)
    Call("xk_pack", (), (layout, *x.shape, ctypes.byref(level)))(address, words.data_ptr())
    return words


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """They are uint8 (bytes,), with a header by which the library knows them."""
    packing.check_weights(dense, geometry.filters)
    source = arguments.address("weights", dense, torch.uint8, dense.shape)
    shape, name = ctypes.byref(arguments.conv_shape(geometry, 0, *size)), kernel.encode() if kernel else None
    return prepared("xk_weights", (shape, name), (source, dense.numel()))


def prepared(functions: str, sizes: tuple, source: tuple) -> Tensor:
    """Weights in the order of a kernel, uint8 (bytes,): what the function for their size and that to pack them take."""
    count = library.SIZE()
    library.call(f"{functions}_size", *sizes, ctypes.byref(count))
    weights = torch.empty(count.value, dtype=torch.uint8)
    library.call(f"{functions}_pack", *sizes, *source, weights.data_ptr(), count)
    return weights


def dense_weights(weights: Tensor, geometry: ConvGeometry) -> Tensor:
    prepared, count = arguments.weights_address(weights)
    dense = torch.empty((geometry.out_channels, packing.filter_bytes(geometry.filters)), dtype=torch.uint8)
    shape = ctypes.byref(arguments.conv_shape(geometry, 0, 0, 0))
    library.call("xk_weights_unpack", shape, prepared, count, dense.data_ptr(), dense.numel())
    return dense


def bind(
    function: str,
    source: tuple,
    sizes: tuple[int, int, int],
    weights: Tensor,
    geometry: ConvGeometry,
    e: Epilogue,
    layout: Layout,
) -> tuple[Call, Tensor]:
    """A call of ``function``, whose arguments behind the input's address are ``source``, and an empty result."""
    kind, order = arguments.OUTPUTS.get(e.output), arguments.LAYOUTS.get(layout)
    if kind is None or order is None:
        check_epilogue(e, layout)
    shape, out = arguments.checked_shape(geometry, *sizes)
    epilogue, binarize = arguments.epilogue(e, geometry, sizes[0], out)
    after = (*source, *arguments.weights_address(weights), ctypes.byref(epilogue))

    def output(result: int) -> library.Output:  # a call's own: other threads may call meanwhile
        return library.Output(result, kind, order, binarize, e.shuffle)

    empty = arguments.empty_output(geometry.out_channels, out, e.output, layout)
    return Call(function, (ctypes.byref(shape),), after, output), empty


def called(x: Tensor, call: Call, result: Tensor) -> Tensor:
    """``result``, after the call on ``x``."""
    call(x.data_ptr(), result.data_ptr())
    return result


def bind_conv2d(
    words: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue, layout: Layout
) -> tuple[Call, Tensor]:
    """:func:`conv2d` of inputs like ``words``, and an empty result of it.

    The call takes the addresses of any input of that shape and of memory for its result. It checks nothing, and may be
    called for as long as the tensors that were given live.
    """
    _, sizes = arguments.words_address(words, geometry.channels)
    return bind("xk_conv", (), sizes, weights, geometry, epilogue, layout)


def bind_conv2d_float(
    x: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue, layout: Layout, binarize: Binarize
) -> tuple[Call, Tensor]:
    """:func:`conv2d_float` of inputs like ``x``, in its memory order too; see :func:`bind_conv2d`."""
    _, input_layout = arguments.input_address(x)
    batch, channels, height, width = x.shape
    if channels != geometry.channels:
        raise ValueError(f"x has {channels} channels; the convolution takes {geometry.channels}")
    source = (input_layout, ctypes.byref(arguments.binarize(*binarize, channels)))
    return bind("xk_conv_float", source, (batch, height, width), weights, geometry, epilogue, layout)


def conv2d(
    words: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue = PLAIN, layout: Layout = "nchw"
) -> Tensor:
    return called(words, *bind_conv2d(words, weights, geometry, epilogue, layout))


def conv2d_float(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue = PLAIN,
    layout: Layout = "nchw",
    binarize: Binarize = AT_ZERO,
) -> Tensor:
    return called(x, *bind_conv2d_float(x, weights, geometry, epilogue, layout, binarize))


@functools.lru_cache(maxsize=1024)
def _checked_pool(geometry: PoolGeometry, batch: int, channels: int, height: int, width: int) -> library.PoolShape:
    """The library's view of a max pooling that it takes."""
    g = geometry
    shape = library.PoolShape(batch, channels, height, width, *g.kernel, *g.stride, *g.dilation, *g.padding, *g.output)
    library.call("xk_max_pool_size", ctypes.byref(shape), ctypes.byref(library.SIZE()))
    return shape


def bind_max_pool2d(
    words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None
) -> tuple[Call, Tensor]:
    """:func:`max_pool2d` of inputs like ``words``, and an empty result of it; see :func:`bind_conv2d`."""
    _, (batch, height, width) = arguments.words_address(words, channels)
    flips = arguments.values("flip", flip, channels, torch.bool)
    shape = ctypes.byref(_checked_pool(geometry, batch, channels, height, width))
    empty = torch.empty((batch, *geometry.output, words.shape[3]), dtype=torch.int64)
    return Call("xk_max_pool", (shape,), (flips,)), empty


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    return called(words, *bind_max_pool2d(words, channels, geometry, flip))


def bind_pool_floats(function: str, x: Tensor, geometry: PoolGeometry) -> tuple[Call, Tensor]:
    """``xk_max_pool_float`` or ``xk_average_pool`` of inputs like ``x``, floats (N, C, H, W) in rows of pixels, as
    torch computes them, and an empty result of it; see :func:`bind_conv2d`.
    """
    arguments.address("x", x, torch.float32, x.shape)
    shape = ctypes.byref(_checked_pool(geometry, *x.shape))
    return Call(function, (shape,)), torch.empty((*x.shape[:2], *geometry.output), dtype=torch.float32)
