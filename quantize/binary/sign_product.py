"""A training step's product of signs with signs: on bits forward, with two bits an element kept for the way back.

With t the threshold, s the surrogate derivative of the sign, B the bits of the weight and alpha its scale::

    S = sign(x - t)               one pass over x, which writes two bits an element: S, and where s is 1
    y = alpha (S * B) + bias      by the bit engine, whose sums are exact, or by torch where that is as fast
    dL/dS, dL/dW = those of torch's convolution, of S that is made of its bits again
    dL/dx = s dL/dS, dL/dt = -(its sum over a channel)      one pass

The gradients are those of the same layer in plain torch; y differs from it by the rounding of its sums, which the
engine has not. S in floats, x - t, and s are not kept. A curved surrogate (the triangle of Bi-Real Net) keeps x.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kept_bits, kernels, ste
from ..kernels import ConvGeometry, Epilogue, cpu_signs
from ..kernels.training import MemoryOrder, memory_order
from ..scheme import Scheme
from .conv2d_form import conv2d_form
from .quantized_layer import QuantizedLayer

_SURROGATES = (ste.inside_open, ste.inside_closed, ste.triangle)
_DTYPES = (torch.float32, torch.bfloat16)
# Of a group, below which torch's convolution is as fast: the engine computes 16 outputs together, of whole words.
_LEAST_CHANNELS, _LEAST_OUTPUTS = 8, 8
_CACHED = 1 << 18  # elements of an output in float32 that stay in a cache until they are bfloat16


class Operation(NamedTuple):
    """What a layer computes of its input's signs.

    Attributes:
        geometry: as a 2-D convolution, of (N, C, H, W), or of the rows of a linear layer as pixels.
        apply: the layer's own operation (signs, weight, bias) in plain torch.
        dims: of the convolution; 0: linear.
        channel_dim: of the input, counted from the end.
        dtype: of the output.
        by_engine: the bit engine is faster than torch's own operation.
        derivative: that stands for the sign's.
    """

    geometry: ConvGeometry
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    dims: int
    channel_dim: int
    dtype: torch.dtype
    by_engine: bool
    derivative: Callable[[Tensor], Tensor]


def operation(layer: QuantizedLayer, x: Tensor) -> Operation | None:
    """What the layer computes in this step; None where it keeps no bits, and plain torch does all."""
    scheme, derivative = layer.scheme, type(layer.scheme).surrogate
    if not scheme.signed_input or derivative not in _SURROGATES or type(scheme).input is not Scheme.input:
        return None
    dims = len(layer.kernel_size)
    if scheme.scales_output or layer.transposed or dims > 2 or kept_bits.backend(x) is not cpu_signs:
        return None
    if x.dim() != dims + 2 if dims else not x.is_contiguous():
        return None
    geometry, options = conv2d_form(layer)
    if options or geometry.padding[:2] != geometry.padding[2:]:
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if dtype not in _DTYPES:
        return None
    by_engine = _is_faster(geometry, dtype)
    return Operation(geometry, layer.apply_weight, dims, layer.channel_dim, dtype, by_engine, derivative)


def _is_faster(geometry: ConvGeometry, dtype: torch.dtype) -> bool:
    if dtype is torch.bfloat16 and "amx" in kernels.available_kernels():
        return False  # its tiles multiply bfloat16 in hardly more time than the engine takes to write the result
    _, channels, *_ = geometry.filters
    return channels >= _LEAST_CHANNELS and geometry.out_channels // geometry.groups >= _LEAST_OUTPUTS


def sign_product(x: Tensor, threshold: Tensor | None, weight: Tensor, bias: Tensor | None, of: Operation) -> Tensor:
    """``y`` of the module's docstring; ``weight`` = alpha B, in the layout of filters."""
    signs, positive = _Signs.apply(x, threshold, of.derivative, of.channel_dim)
    return _Product.apply(signs, positive, memory_order(x), weight, bias, of)


class _Signs(torch.autograd.Function):
    """The signs as bits, and a tensor without memory that stands for them in the graph."""

    @staticmethod
    def forward(
        ctx, x: Tensor, threshold: Tensor | None, derivative: Callable, channel_dim: int
    ) -> tuple[Tensor, Tensor]:
        levels = None if threshold is None else threshold.detach().to(x.dtype).float()
        positive, inside = cpu_signs.level_bits(x, levels, channel_dim, derivative is ste.inside_closed)
        ctx.derivative, ctx.channel_dim, ctx.order = derivative, channel_dim, memory_order(x)
        ctx.thresholded = threshold is not None
        ctx.save_for_backward(*((x, threshold) if derivative is ste.triangle else (inside,)))
        ctx.mark_non_differentiable(positive)
        return x.new_empty(()).expand_as(x), positive

    @staticmethod
    def backward(ctx, grad: Tensor, _):
        if torch.is_grad_enabled():  # of a gradient a gradient will be taken: torch has to see what happens
            passed, sums = _pass_in_plain_torch(ctx, grad)
        elif ctx.derivative is ste.triangle:
            x, threshold = ctx.saved_tensors
            levels = None if threshold is None else threshold.to(x.dtype).float()
            passed, sums = cpu_signs.pass_triangle(grad, x, levels, ctx.channel_dim)
        else:
            (inside,) = ctx.saved_tensors
            passed, sums = cpu_signs.pass_level_inside(grad, inside, ctx.order, ctx.channel_dim)
        return passed, -sums if ctx.thresholded else None, None, None


def _pass_in_plain_torch(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
    if ctx.derivative is ste.triangle:
        x, threshold = ctx.saved_tensors
        shape = (-1,) + (1,) * (-1 - ctx.channel_dim)
        passed = grad * ste.triangle(x if threshold is None else x - threshold.to(x.dtype).reshape(shape))
    else:
        (inside,) = ctx.saved_tensors
        passed = grad * (cpu_signs.signs(inside, ctx.order) > 0)
    return passed, passed.movedim(ctx.channel_dim, 0).flatten(1).sum(1, dtype=torch.float32)


class _Shown(torch.autograd.Function):
    """The signs in floats, in the place of the tensor that stands for them."""

    @staticmethod
    def forward(ctx, signs: Tensor, positive: Tensor, order: MemoryOrder) -> Tensor:
        return cpu_signs.signs(positive, order)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        signs: Tensor,
        positive: Tensor,
        order: MemoryOrder,
        weight: Tensor,
        bias: Tensor | None,
        of: Operation,
    ) -> Tensor:
        ctx.save_for_backward(signs, positive, weight, bias)
        ctx.order, ctx.of = order, of
        # A scheme of one's own may make weights that are not +-alpha.
        signs_of_weight = cpu_signs.filter_signs(weight) if of.by_engine else None
        if signs_of_weight is not None:
            return _on_bits(positive, order, *signs_of_weight, bias, of)
        shown = cpu_signs.signs(positive, order._replace(dtype=of.dtype))
        y = of.apply(shown, weight.to(of.dtype), None if bias is None else bias.to(of.dtype))
        return y if of.dims else _own(y, y.shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        signs, positive, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # see _Signs
            shown = _Shown.apply(signs, positive, ctx.order)
            y = ctx.of.apply(shown, weight.to(shown.dtype), None if bias is None else bias.to(shown.dtype))
            wanted = [t for t in (shown, weight, bias) if t is not None and t.requires_grad]
            found = iter(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=True))
            gradients = [next(found) if asked else None for asked in ctx.needs_input_grad]
            return tuple(gradients)
        shown = cpu_signs.signs(positive, ctx.order._replace(dtype=grad.dtype))
        results = _gradients(shown, weight, grad, ctx.of, [ctx.needs_input_grad[i] for i in (0, 3, 4)])
        # Autograd wants them in the dtypes of what they belong to.
        of_signs, of_weight, of_bias = (
            None if g is None or t is None else g.to(t.dtype)
            for g, t in zip(results, (signs, weight, bias), strict=True)
        )
        return of_signs, None, None, of_weight, of_bias, None


def _on_bits(
    positive: Tensor, order: MemoryOrder, dense: Tensor, scale: Tensor, bias: Tensor | None, of: Operation
) -> Tensor:
    """The forward pass with weights of :func:`cpu_signs.filter_signs`."""
    geometry, size = of.geometry, order.size
    height, width = ((1, 1) * 2 + tuple(size[2:]))[-2:] if of.dims else (1, size.numel() // size[-1])
    batch = size[0] if of.dims else 1
    prepared = kernels.prepare_weights(dense, geometry, cpu_signs.step_kernel(), (height, width))
    words = cpu_signs.pixel_words(positive, order, of.channel_dim).view(batch, height, width, -1)
    epilogue = Epilogue(scale, None if bias is None else bias.float())
    nhwc = of.dims != 2 or (order.stride[1] == 1 and size[1] > 1 and height * width > 1)
    layout = "nhwc" if nhwc and of.dims != 1 else "nchw"
    y = _convolved(words, prepared, geometry, epilogue, layout, of.dtype)
    if of.dims == 2:
        return y
    shape = (*size[:-1], geometry.out_channels) if not of.dims else (y.shape[0], y.shape[1], y.shape[3])
    return _own(y, shape)


def _own(y: Tensor, shape: Sequence[int]) -> Tensor:
    """The memory of a contiguous result as no view, which an in-place ReLU behind the layer could not change."""
    return torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, shape)  # type: ignore[call-overload]


def _convolved(words, prepared, geometry: ConvGeometry, epilogue: Epilogue, layout, dtype: torch.dtype) -> Tensor:
    """In float32, or image by image on the way to bfloat16, so that float32 never leaves the cache."""
    if dtype is torch.float32:
        return kernels.conv2d(words, prepared, geometry, epilogue, layout=layout)
    batch = len(words)
    height, width = geometry.output_size(*words.shape[1:3])
    step = max(1, _CACHED // (geometry.out_channels * height * width))
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    y = torch.empty((batch, geometry.out_channels, height, width), dtype=dtype, memory_format=memory_format)
    for first in range(0, batch, step):
        part = slice(first, first + step)
        y[part] = kernels.conv2d(words[part], prepared, geometry, epilogue, layout=layout)
    return y


def _gradients(
    signs: Tensor, weight: Tensor, grad: Tensor, of: Operation, wanted: list[bool]
) -> tuple[Tensor | None, ...]:
    """Of signs, weight and bias, as far as they are ``wanted``, by torch's own kernels."""
    weight = weight.to(grad.dtype)
    if of.dims:
        g = of.geometry
        stride, padding, dilation = ([*pair][-of.dims :] for pair in (g.stride, g.padding[:2], g.dilation))
        options = (stride, padding, dilation, False, [0] * of.dims, g.groups)
        return torch.ops.aten.convolution_backward(grad, signs, weight, [g.out_channels], *options, wanted)
    rows = grad.reshape(-1, grad.shape[-1])
    of_signs, of_weight, of_bias = wanted
    return (
        grad @ weight if of_signs else None,
        rows.t() @ signs.reshape(-1, signs.shape[-1]) if of_weight else None,
        rows.sum(0, dtype=torch.float32) if of_bias else None,
    )
