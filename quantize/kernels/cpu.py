"""The native backend, a :class:`.backend.Backend`: the shared library carries the operations out (:mod:`.library`).

The library knows neither Python nor torch. It gets raw pointers, checks every size itself, and takes its
threads from the OpenMP pool that torch has already started.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import packing
from . import library
from .epilogue import AT_ZERO, PLAIN, Binarize, Epilogue, Layout, Output, check_epilogue
from .geometry import ConvGeometry, PoolGeometry

_LAYOUTS = {"nchw": 0, "nhwc": 1}
_OUTPUTS = {"float32": 0, "int32": 1, "bits": 2}
_AT_ZERO = library.Binarize(None, None)

Call = Callable[[int, int], None]  # what the library does with the input at an address; where the result goes


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


def _address(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Where a tensor's data is, once it is what the library will take it for."""
    if tensor.dtype is dtype and tensor.is_cpu and tensor.shape == shape and tensor.is_contiguous():
        return tensor.data_ptr()
    raise _mismatch(name, tensor, dtype, shape)


def _values(name: str, tensor: Tensor | None, channels: int, dtype: torch.dtype = torch.float32) -> int | None:
    """The address of one value a channel, where there are any."""
    return None if tensor is None else _address(name, tensor, dtype, (channels,))


def _input_address(x: Tensor) -> tuple[int, int]:
    """Address and layout of floats (N, C, H, W)."""
    if x.dtype is torch.float32 and x.is_cpu and x.dim() == 4 and x.is_contiguous():
        return x.data_ptr(), _LAYOUTS["nchw"]
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}; it must be (N, C, H, W)")
    layout = "nchw"
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        x, layout = x.permute(0, 2, 3, 1), "nhwc"
    return _address("x", x, torch.float32, x.shape), _LAYOUTS[layout]


def _words_address(words: Tensor, channels: int) -> tuple[int, tuple[int, int, int]]:
    """Address, and batch, height and width, of bits (N, H, W, words)."""
    if words.dim() != 4:
        raise ValueError(f"words has shape {tuple(words.shape)}; it must be (N, H, W, words)")
    batch, height, width, _ = words.shape
    shape = (batch, height, width, packing.words_for(channels))
    return _address("words", words, torch.int64, shape), (batch, height, width)


def _binarize(threshold: Tensor | None, flip: Tensor | None, channels: int) -> library.Binarize:
    """The library's view of a :class:`Binarize`."""
    if threshold is None and flip is None:
        return _AT_ZERO
    return library.Binarize(_values("threshold", threshold, channels), _values("flip", flip, channels, torch.bool))


def _shape(geometry: ConvGeometry, batch: int, height: int, width: int) -> library.Shape:
    g = geometry
    return library.Shape(
        batch, g.channels, height, width, g.out_channels, *g.kernel, *g.stride, *g.dilation, *g.padding, g.groups
    )


@functools.lru_cache(maxsize=1024)
def _checked_shape(
    geometry: ConvGeometry, batch: int, height: int, width: int
) -> tuple[library.Shape, tuple[int, int, int]]:
    """The library's view of a convolution, and batch, height and width of its output."""
    shape, out_height, out_width = _shape(geometry, batch, height, width), ctypes.c_int64(), ctypes.c_int64()
    library.call("xk_output_size", ctypes.byref(shape), ctypes.byref(out_height), ctypes.byref(out_width))
    return shape, (batch, out_height.value, out_width.value)


def pack(x: Tensor, binarize: Binarize = AT_ZERO) -> Tensor:
    address, layout = _input_address(x)
    batch, channels, height, width = x.shape
    level = _binarize(*binarize, channels)
    words = torch.empty((batch, height, width, packing.words_for(channels)), dtype=torch.int64)
    library.call("xk_pack", address, layout, *x.shape, ctypes.byref(level), words.data_ptr(), library.parallel())
    return words


def prepare_weights(
    dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
) -> Tensor:
    """They are uint8 (bytes,), with a header by which the library knows them."""
    packing.check_weights(dense, geometry.filters)
    source = _address("weights", dense, torch.uint8, dense.shape)
    shape, name = ctypes.byref(_shape(geometry, 0, *size)), kernel.encode() if kernel else None
    return _prepared("xk_weights", (shape, name), (source, dense.numel()))


def _prepared(functions: str, sizes: tuple, source: tuple) -> Tensor:
    """Weights in the order of a kernel, uint8 (bytes,): what the function for their size and that to pack them take."""
    count = library.SIZE()
    library.call(f"{functions}_size", *sizes, ctypes.byref(count))
    weights = torch.empty(count.value, dtype=torch.uint8)
    library.call(f"{functions}_pack", *sizes, *source, weights.data_ptr(), count)
    return weights


def dense_weights(weights: Tensor, geometry: ConvGeometry) -> Tensor:
    prepared = _address("weights", weights, torch.uint8, (weights.numel(),))
    dense = torch.empty((geometry.out_channels, packing.filter_bytes(geometry.filters)), dtype=torch.uint8)
    shape = ctypes.byref(_shape(geometry, 0, 0, 0))
    library.call("xk_weights_unpack", shape, prepared, weights.numel(), dense.data_ptr(), dense.numel())
    return dense


def _empty_output(out_channels: int, sizes: tuple[int, int, int], output: Output, layout: Layout) -> Tensor:
    batch, height, width = sizes
    if output == "float32" and layout == "nchw":
        return torch.empty((batch, out_channels, height, width), dtype=torch.float32)
    if output == "bits":
        return torch.empty((batch, height, width, packing.words_for(out_channels)), dtype=torch.int64)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    dtype = torch.float32 if output == "float32" else torch.int32
    return torch.empty((batch, out_channels, height, width), dtype=dtype, memory_format=memory_format)


def _epilogue(
    e: Epilogue, geometry: ConvGeometry, batch: int, out: tuple[int, int, int]
) -> tuple[library.Epilogue, library.Binarize]:
    """The library's view of an epilogue."""
    channels, factor = geometry.out_channels, None
    if e.input_scale is not None:
        factor = _address("input_scale", e.input_scale, torch.float32, (batch, geometry.groups, *out[1:]))
    scale, bias = _values("scale", e.scale, channels), _values("bias", e.bias, channels)
    return library.Epilogue(scale, bias, factor, e.relu), _binarize(e.threshold, e.flip, channels)


def _bind(
    function: str,
    source: tuple,
    sizes: tuple[int, int, int],
    weights: Tensor,
    geometry: ConvGeometry,
    e: Epilogue,
    layout: Layout,
) -> tuple[Call, Tensor]:
    """A call of ``function``, whose arguments behind the input's address are ``source``, and an empty result."""
    kind, order = _OUTPUTS.get(e.output), _LAYOUTS.get(layout)
    if kind is None or order is None:
        check_epilogue(e, layout)
    shape, out = _checked_shape(geometry, *sizes)
    epilogue, binarize = _epilogue(e, geometry, sizes[0], out)
    count = weights.numel()
    common = (*source, _address("weights", weights, torch.uint8, (count,)), count, ctypes.byref(epilogue))
    run, size = getattr(library.loaded(), function), ctypes.byref(shape)

    def call(x: int, result: int) -> None:
        output = library.Output(result, kind, order, binarize, e.shuffle)  # its own: other threads may call meanwhile
        library.check(run(size, x, *common, ctypes.byref(output), library.parallel()))

    return call, _empty_output(geometry.out_channels, out, e.output, layout)


def _called(x: Tensor, call: Call, result: Tensor) -> Tensor:
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
    _, sizes = _words_address(words, geometry.channels)
    return _bind("xk_conv", (), sizes, weights, geometry, epilogue, layout)


def bind_conv2d_float(
    x: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue, layout: Layout, binarize: Binarize
) -> tuple[Call, Tensor]:
    """:func:`conv2d_float` of inputs like ``x``, in its memory order too; see :func:`bind_conv2d`."""
    _, input_layout = _input_address(x)
    batch, channels, height, width = x.shape
    if channels != geometry.channels:
        raise ValueError(f"x has {channels} channels; the convolution takes {geometry.channels}")
    source = (input_layout, ctypes.byref(_binarize(*binarize, channels)))
    return _bind("xk_conv_float", source, (batch, height, width), weights, geometry, epilogue, layout)


def conv2d(
    words: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue = PLAIN, layout: Layout = "nchw"
) -> Tensor:
    return _called(words, *bind_conv2d(words, weights, geometry, epilogue, layout))


def conv2d_float(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue = PLAIN,
    layout: Layout = "nchw",
    binarize: Binarize = AT_ZERO,
) -> Tensor:
    return _called(x, *bind_conv2d_float(x, weights, geometry, epilogue, layout, binarize))


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
    _, (batch, height, width) = _words_address(words, channels)
    flips = _values("flip", flip, channels, torch.bool)
    shape = ctypes.byref(_checked_pool(geometry, batch, channels, height, width))
    run = library.loaded().xk_max_pool

    def call(x: int, result: int) -> None:
        library.check(run(shape, x, flips, result, library.parallel()))

    return call, torch.empty((batch, *geometry.output, words.shape[3]), dtype=torch.int64)


def max_pool2d(words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
    return _called(words, *bind_max_pool2d(words, channels, geometry, flip))


def bind_pool_floats(function: str, x: Tensor, geometry: PoolGeometry) -> tuple[Call, Tensor]:
    """``xk_max_pool_float`` or ``xk_average_pool`` of inputs like ``x``, floats (N, C, H, W) in rows of pixels, as
    torch computes them, and an empty result of it; see :func:`bind_conv2d`.
    """
    _address("x", x, torch.float32, x.shape)
    run, shape = getattr(library.loaded(), function), ctypes.byref(_checked_pool(geometry, *x.shape))

    def call(x: int, result: int) -> None:
        library.check(run(shape, x, result, library.parallel()))

    return call, torch.empty((*x.shape[:2], *geometry.output), dtype=torch.float32)


# Layers whose weights are codes of a few bits.


def levels_of_codes(codes: Tensor, count: int, bits: int, levels: Tensor, scale: Tensor | None = None) -> Tensor:
    """What codes stand for, uint8 (rows, bytes) of ``count`` a row, times ``scale`` (rows,): float32 (rows, count)."""
    rows = len(codes)
    source = _address("codes", codes, torch.uint8, (rows, -(-count * bits // 8)))
    of_codes, factors = _address("levels", levels, torch.float32, (2**bits,)), _values("scale", scale, rows)
    values = torch.empty((rows, count), dtype=torch.float32)
    library.call("xk_levels", source, rows, count, bits, of_codes, factors, values.data_ptr(), library.parallel())
    return values


class Levels(NamedTuple):
    """A layer whose input and weights have a few even levels, as ``xk_level_layer`` has it.

    Attributes:
        input_bits: 0 of signs.
        weights: of :func:`prepare_weights`, the planes of a group one after the other.
        totals: int32 (out, kh + 1, kw + 1), what the weights above and left of a tap add up to.
        divisor: of the sums.
        scale: float32, one value or one an output, which multiplies what is divided, or None.
        bias: (out,) or None.
    """

    input_bits: int
    weight_bits: int
    weights: Tensor
    totals: Tensor
    divisor: int
    scale: Tensor | None
    bias: Tensor | None


def _level_layer(layer: Levels, geometry: ConvGeometry) -> library.LevelLayer:
    """The library's view of a layer."""
    w, scale, out, (kh, kw) = layer.weights, layer.scale, geometry.out_channels, geometry.kernel
    return library.LevelLayer(
        layer.input_bits,
        layer.weight_bits,
        _address("weights", w, torch.uint8, (w.numel(),)),
        w.numel(),
        _address("totals", layer.totals, torch.int32, (out, kh + 1, kw + 1)),
        layer.divisor,
        None if scale is None else _address("scale", scale, torch.float32, scale.shape),
        0 if scale is None else scale.numel(),
        _values("bias", layer.bias, out),
    )


def bind_level_conv(x: Tensor, layer: Levels, geometry: ConvGeometry) -> tuple[Call, Tensor]:
    """The layer, a convolution of this geometry, of inputs like ``x``, and an empty result of it.

    x is floats (N, C, H, W) in rows of pixels; see :func:`bind_conv2d`.
    """
    batch, _, height, width = x.shape
    _address("x", x, torch.float32, (batch, geometry.channels, height, width))
    shape, sizes = _checked_shape(geometry, batch, height, width)
    run, size = library.loaded().xk_level_conv, ctypes.byref(shape)
    of_layer = ctypes.byref(_level_layer(layer, geometry))

    def call(x: int, result: int) -> None:
        library.check(run(size, of_layer, x, result, library.parallel()))

    return call, _empty_output(geometry.out_channels, sizes, "float32", "nchw")


def bind_level_linear(x: Tensor, layer: Levels, geometry: ConvGeometry) -> tuple[Call, Tensor]:
    """The same of a linear layer, of floats (rows, C): to (rows, C')."""
    inputs, outputs, rows = geometry.channels, geometry.out_channels, len(x)
    _address("x", x, torch.float32, (rows, inputs))
    run, of_layer = library.loaded().xk_level_linear, ctypes.byref(_level_layer(layer, geometry))

    def call(x: int, result: int) -> None:
        library.check(run(rows, inputs, outputs, of_layer, x, result, library.parallel()))

    return call, torch.empty((rows, outputs), dtype=torch.float32)


# Layers whose input stays float.


def prepare_lookup(dense: Tensor, inputs: int) -> Tensor:
    """Dense rows of signs, uint8 (outputs, bytes), for :func:`look_up`: uint8 (bytes,), with a header of their own."""
    outputs = len(dense)
    source = _address("weights", dense, torch.uint8, (outputs, -(-inputs // 8)))
    return _prepared("xk_lookup", (inputs, outputs), (source, dense.numel()))


def look_up(x: Tensor, weights: Tensor, outputs: int) -> Tensor:
    """Floats (rows, inputs) times signs of :func:`prepare_lookup`: float32 (rows, outputs)."""
    rows, inputs = x.shape
    source = _address("x", x, torch.float32, (rows, inputs))
    prepared, count = _address("weights", weights, torch.uint8, (weights.numel(),)), weights.numel()
    y = torch.empty((rows, outputs), dtype=torch.float32)
    library.call("xk_lookup", rows, inputs, outputs, source, prepared, count, y.data_ptr(), library.parallel())
    return y


def prepare_sign_conv(planes: list[Tensor], geometry: ConvGeometry) -> Tensor:
    """Weights of :func:`bind_sign_conv2d`: uint8 (bytes,), with a header of their own.

    ``planes`` are dense weights, uint8 (out, bytes): one of signs, or two whose mean a weight of -1, 0 and 1 is.
    """
    for dense in planes:
        packing.check_weights(dense, geometry.filters)
    both = torch.cat(planes)
    source = _address("weights", both, torch.uint8, both.shape)
    shape = ctypes.byref(_shape(geometry, 0, 0, 0))
    return _prepared("xk_sign_conv", (shape, len(planes)), (source, both.numel()))


def bind_sign_conv2d(
    x: Tensor, weights: Tensor, geometry: ConvGeometry, scale: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Call, Tensor]:
    """Floats like ``x``, (N, C, H, W) in rows of pixels, convolved with weights of :func:`prepare_sign_conv`, times
    ``scale`` (out,), plus ``bias``, and an empty result; see :func:`bind_conv2d`.
    """
    batch, _, height, width = x.shape
    _address("x", x, torch.float32, (batch, geometry.channels, height, width))
    shape, out = _checked_shape(geometry, batch, height, width)
    prepared, count = _address("weights", weights, torch.uint8, (weights.numel(),)), weights.numel()
    scales, biases = (_values(n, end, geometry.out_channels) for n, end in (("scale", scale), ("bias", bias)))
    run, size = library.loaded().xk_sign_conv, ctypes.byref(shape)

    def call(x: int, result: int) -> None:
        library.check(run(size, x, prepared, count, scales, biases, result, library.parallel()))

    return call, _empty_output(geometry.out_channels, out, "float32", "nchw")


class Interleave(NamedTuple):
    """Where the results of a transposed convolution go that is one convolution of all its phases.

    Attributes:
        rows, columns: of each phase the first output, and the result of the convolution that belongs there.
    """

    rows: tuple[tuple[int, int], ...]
    columns: tuple[tuple[int, int], ...]


def bind_sign_conv_transposed2d(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    places: Interleave,
    size: tuple[int, int],
    scale: Tensor | None,
    bias: Tensor | None,
) -> tuple[Call, Tensor]:
    """:func:`bind_sign_conv2d` to an output of ``size``, in which the filters, (rows' phases, C', columns'
    phases), lie interleaved.
    """
    batch, _, height, width = x.shape
    _address("x", x, torch.float32, (batch, geometry.channels, height, width))
    shape, _ = _checked_shape(geometry, batch, height, width)
    prepared, count = _address("weights", weights, torch.uint8, (weights.numel(),)), weights.numel()
    out = geometry.out_channels // (len(places.rows) * len(places.columns))
    scales, biases = (_values(name, end, out) for name, end in (("scale", scale), ("bias", bias)))
    rows, columns = (_pairs(phases) for phases in places)
    whole = library.Interleave(*size, len(rows) // 2, len(columns) // 2, *map(ctypes.addressof, (rows, columns)))
    of_places, run = ctypes.byref(whole), library.loaded().xk_sign_conv_transposed
    of_shape, kept = ctypes.byref(shape), (rows, columns)

    def call(x: int, result: int, _kept: object = kept) -> None:
        library.check(run(of_shape, of_places, x, prepared, count, scales, biases, result, library.parallel()))

    return call, torch.empty((batch, out, *size), dtype=torch.float32)


def _pairs(phases: tuple[tuple[int, int], ...]) -> ctypes.Array:
    numbers = [number for pair in phases for number in pair]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def sign_conv2d(
    x: Tensor, weights: Tensor, geometry: ConvGeometry, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """:func:`bind_sign_conv2d`, called."""
    return _called(x, *bind_sign_conv2d(x, weights, geometry, scale, bias))


def sign_conv_is_fast() -> bool:
    """Whether this machine has a kernel with which :func:`sign_conv2d` may take less time than one of floats."""
    return bool(library.loaded().xk_sign_conv_is_fast())


def lookup_kernel(weights: Tensor) -> str:
    """The kernel that weights of :func:`prepare_lookup` or :func:`prepare_sign_conv` are for: their header names it."""
    return bytes(weights[8:24].numpy()).rstrip(b"\0").decode()


# Convolutions of 8-bit numbers.


def prepare_numbers(numbers: Tensor, geometry: ConvGeometry, zero: int) -> Tensor:
    """Weights of :func:`conv2d_int8`, w + 128 in uint8 (out, kh * kw * channels): uint8 (bytes,), with a header."""
    source = _address("numbers", numbers, torch.uint8, (geometry.out_channels, numbers.shape[-1]))
    shape = ctypes.byref(_shape(geometry, 0, 0, 0))
    return _prepared("xk_int8", (shape,), (source, numbers.numel(), zero))


def conv2d_int8(x: Tensor, inverse: float, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue) -> Tensor:
    """Floats (N, C, H, W) in rows of pixels: with ``q = round(x * inverse)``, the convolution of q, in float32."""
    batch, _, height, width = x.shape
    source = _address("x", x, torch.float32, (batch, geometry.channels, height, width))
    shape, out = _checked_shape(geometry, batch, height, width)
    ends, _ = _epilogue(epilogue, geometry, batch, out)
    prepared, count = _address("weights", weights, torch.uint8, (weights.numel(),)), weights.numel()
    result = _empty_output(geometry.out_channels, out, "float32", "nchw")
    target = library.Output(result.data_ptr(), _OUTPUTS["float32"], _LAYOUTS["nchw"], _AT_ZERO, 1)
    rest = (prepared, count, ctypes.byref(ends), ctypes.byref(target), library.parallel())
    library.call("xk_int8_conv", ctypes.byref(shape), source, inverse, *rest)
    return result


# Convolutions of floats, for first layers.


def prepare_floats(weight: Tensor, geometry: ConvGeometry, by_channels: bool = False) -> Tensor:
    """Weights of :func:`bind_conv2d_floats`, float32 (out, channels, kh, kw): uint8 (bytes,), with a header.

    Products are added tap by tap, each with all its channels, or channel by channel: sums are rounded accordingly.
    """
    values = weight.permute(0, 2, 3, 1).contiguous()
    source = _address("weight", values, torch.float32, values.shape)
    shape = ctypes.byref(_shape(geometry, 0, 0, 0))
    return _prepared("xk_float", (shape,), (source, values.numel(), by_channels))


def bind_conv2d_floats(x: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue) -> tuple[Call, Tensor]:
    """The convolution of floats like ``x``, (N, C, H, W) in rows of pixels, with floats, and an empty result of it.

    See :func:`bind_conv2d`.
    """
    batch, channels, height, width = x.shape
    _address("x", x, torch.float32, (batch, geometry.channels, height, width))
    return _bind("xk_float_conv", (), (batch, height, width), weights, geometry, epilogue, "nchw")
