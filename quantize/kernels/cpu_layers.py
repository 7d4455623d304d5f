"""What the library computes of layers that are no product of signs with signs: of no other backend."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from .. import packing
from . import arguments, cpu, library
from .calls import Call
from .epilogue import Epilogue
from .geometry import ConvGeometry

# Layers whose weights are codes of a few bits.


def levels_of_codes(codes: Tensor, count: int, bits: int, levels: Tensor, scale: Tensor | None = None) -> Tensor:
    """What codes stand for, uint8 (rows, bytes) of ``count`` a row, times ``scale`` (rows,): float32 (rows, count)."""
    rows = len(codes)
    source = arguments.address("codes", codes, torch.uint8, (rows, -(-count * bits // 8)))
    of_codes = arguments.address("levels", levels, torch.float32, (2**bits,))
    factors = arguments.values("scale", scale, rows)
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
    scale, out, (kh, kw) = layer.scale, geometry.out_channels, geometry.kernel
    return library.LevelLayer(
        layer.input_bits,
        layer.weight_bits,
        *arguments.weights_address(layer.weights),
        arguments.address("totals", layer.totals, torch.int32, (out, kh + 1, kw + 1)),
        layer.divisor,
        None if scale is None else arguments.address("scale", scale, torch.float32, scale.shape),
        0 if scale is None else scale.numel(),
        arguments.values("bias", layer.bias, out),
    )


def bind_level_conv(x: Tensor, layer: Levels, geometry: ConvGeometry) -> tuple[Call, Tensor]:
    """The layer, a convolution of this geometry, of inputs like ``x``, and an empty result of it.

    x is floats (N, C, H, W) in rows of pixels; see :func:`bind_conv2d`.
    """
    shape, sizes = arguments.shape_of_planes(x, geometry)
    call = Call("xk_level_conv", (ctypes.byref(shape), ctypes.byref(_level_layer(layer, geometry))))
    return call, arguments.empty_output(geometry.out_channels, sizes, "float32", "nchw")


def bind_level_linear(x: Tensor, layer: Levels, geometry: ConvGeometry) -> tuple[Call, Tensor]:
    """The same of a linear layer, of floats (rows, C): to (rows, C')."""
    inputs, outputs, rows = geometry.channels, geometry.out_channels, len(x)
    arguments.address("x", x, torch.float32, (rows, inputs))
    call = Call("xk_level_linear", (rows, inputs, outputs, ctypes.byref(_level_layer(layer, geometry))))
    return call, torch.empty((rows, outputs), dtype=torch.float32)


# Layers whose input stays float.


def prepare_lookup(dense: Tensor, inputs: int) -> Tensor:
    """Dense rows of signs, uint8 (outputs, bytes), for :func:`look_up`: uint8 (bytes,), with a header of their own."""
    outputs = len(dense)
    source = arguments.address("weights", dense, torch.uint8, (outputs, -(-inputs // 8)))
    return cpu.prepared("xk_lookup", (inputs, outputs), (source, dense.numel()))


def look_up(x: Tensor, weights: Tensor, outputs: int) -> Tensor:
    """Floats (rows, inputs) times signs of :func:`prepare_lookup`: float32 (rows, outputs)."""
    rows, inputs = x.shape
    source = arguments.address("x", x, torch.float32, (rows, inputs))
    y = torch.empty((rows, outputs), dtype=torch.float32)
    Call("xk_lookup", (rows, inputs, outputs), arguments.weights_address(weights))(source, y.data_ptr())
    return y


def prepare_sign_conv(planes: list[Tensor], geometry: ConvGeometry) -> Tensor:
    """Weights of :func:`bind_sign_conv2d`: uint8 (bytes,), with a header of their own.

    ``planes`` are dense weights, uint8 (out, bytes): one of signs, or two whose mean a weight of -1, 0 and 1 is.
    """
    for dense in planes:
        packing.check_weights(dense, geometry.filters)
    both = torch.cat(planes)
    source = arguments.address("weights", both, torch.uint8, both.shape)
    shape = ctypes.byref(arguments.conv_shape(geometry, 0, 0, 0))
    return cpu.prepared("xk_sign_conv", (shape, len(planes)), (source, both.numel()))


def bind_sign_conv2d(
    x: Tensor, weights: Tensor, geometry: ConvGeometry, scale: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Call, Tensor]:
    """Floats like ``x``, (N, C, H, W) in rows of pixels, convolved with weights of :func:`prepare_sign_conv`, times
    ``scale`` (out,), plus ``bias``, and an empty result; see :func:`bind_conv2d`.
    """
    shape, out = arguments.shape_of_planes(x, geometry)
    ends = (arguments.values(n, end, geometry.out_channels) for n, end in (("scale", scale), ("bias", bias)))
    call = Call("xk_sign_conv", (ctypes.byref(shape),), (*arguments.weights_address(weights), *ends))
    return call, arguments.empty_output(geometry.out_channels, out, "float32", "nchw")


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
    shape, (batch, *_) = arguments.shape_of_planes(x, geometry)
    out = geometry.out_channels // (len(places.rows) * len(places.columns))
    ends = (arguments.values(name, end, out) for name, end in (("scale", scale), ("bias", bias)))
    rows, columns = (_pairs(phases) for phases in places)
    whole = library.Interleave(*size, len(rows) // 2, len(columns) // 2, *map(ctypes.addressof, (rows, columns)))
    whole.keep_alive = rows, columns
    sizes = (ctypes.byref(shape), ctypes.byref(whole))
    call = Call("xk_sign_conv_transposed", sizes, (*arguments.weights_address(weights), *ends))
    return call, torch.empty((batch, out, *size), dtype=torch.float32)


def _pairs(phases: tuple[tuple[int, int], ...]) -> ctypes.Array:
    numbers = [number for pair in phases for number in pair]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def sign_conv2d(
    x: Tensor, weights: Tensor, geometry: ConvGeometry, scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """:func:`bind_sign_conv2d`, called."""
    return cpu.called(x, *bind_sign_conv2d(x, weights, geometry, scale, bias))


def sign_conv_is_fast() -> bool:
    """Whether this machine has a kernel with which :func:`sign_conv2d` may take less time than one of floats."""
    return bool(library.loaded().xk_sign_conv_is_fast())


def lookup_kernel(weights: Tensor) -> str:
    """The kernel that weights of :func:`prepare_lookup` or :func:`prepare_sign_conv` are for: their header names it."""
    return bytes(weights[8:24].numpy()).rstrip(b"\0").decode()


# Convolutions of 8-bit numbers.


def prepare_numbers(numbers: Tensor, geometry: ConvGeometry, zero: int) -> Tensor:
    """Weights of :func:`conv2d_int8`, w + 128 in uint8 (out, kh * kw * channels): uint8 (bytes,), with a header."""
    source = arguments.address("numbers", numbers, torch.uint8, (geometry.out_channels, numbers.shape[-1]))
    shape = ctypes.byref(arguments.conv_shape(geometry, 0, 0, 0))
    return cpu.prepared("xk_int8", (shape,), (source, numbers.numel(), zero))


def conv2d_int8(x: Tensor, inverse: float, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue) -> Tensor:
    """Floats (N, C, H, W) in rows of pixels: with ``q = round(x * inverse)``, the convolution of q, in float32."""
    return cpu.called(x, *_bind_dense("xk_int8_conv", (inverse,), x, weights, geometry, epilogue))


# Convolutions of floats, for first layers.


def prepare_floats(weight: Tensor, geometry: ConvGeometry, by_channels: bool = False) -> Tensor:
    """Weights of :func:`bind_conv2d_floats`, float32 (out, channels, kh, kw): uint8 (bytes,), with a header.

    Products are added tap by tap, each with all its channels, or channel by channel: sums are rounded accordingly.
    """
    values = weight.permute(0, 2, 3, 1).contiguous()
    source = arguments.address("weight", values, torch.float32, values.shape)
    shape = ctypes.byref(arguments.conv_shape(geometry, 0, 0, 0))
    return cpu.prepared("xk_float", (shape,), (source, values.numel(), by_channels))


def bind_conv2d_floats(x: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue) -> tuple[Call, Tensor]:
    """The convolution of floats like ``x``, (N, C, H, W) in rows of pixels, with floats, and an empty result of it.

    See :func:`bind_conv2d`.
    """
    return _bind_dense("xk_float_conv", (), x, weights, geometry, epilogue)


def _bind_dense(
    function: str, source: tuple, x: Tensor, weights: Tensor, geometry: ConvGeometry, epilogue: Epilogue
) -> tuple[Call, Tensor]:
    """:func:`cpu.bind` of inputs like ``x``, floats (N, C, H, W) in rows of pixels."""
    batch, _, height, width = x.shape
    arguments.address("x", x, torch.float32, (batch, geometry.channels, height, width))
    return cpu.bind(function, source, (batch, height, width), weights, geometry, epilogue, "nchw")
