"""The product of signs with signs in a training step: on bits forward, with two bits an element kept for the way back.

With t the threshold, s the surrogate derivative of the sign, B the bits of the weight and alpha its scale::

    S = sign(x - t)               one pass over x, which writes two bits an element: S, and where s is 1
    y = alpha (S * B) + bias      by the bit engine, whose sums are exact, or by torch where that is as fast
    dL/dS, dL/dW = those of torch's convolution, of S that is made of its bits again
    dL/dx = s dL/dS, dL/dt = -(its sum over a channel)      one pass

The gradients are those of the same layer in plain torch; y differs from it by the rounding of its sums, which the
engine has not. S in floats, x - t, and s are not kept. A curved surrogate (the triangle of Bi-Real Net) keeps x.
Without gradients, in evaluation, the forward pass is the same and nothing is kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import kept_bits, kernels, ste
from ..kernels import ConvGeometry, Epilogue, Layout, PreparedWeights, cpu_signs
from ..kernels.training import MemoryOrder, memory_order
from ..scheme import Scheme
from .conv2d_form import conv2d_form, from_batch, to_batch
from .quantized_layer import QuantizedLayer

_SURROGATES = (ste.inside_open, ste.inside_closed, ste.triangle)
# Of a group, below which torch's convolution is as fast: the engine computes 16 outputs together, of whole words.
_LEAST_CHANNELS, _LEAST_OUTPUTS = 8, 8
_CACHED = 1 << 18  # elements of an output in float32 that stay in a cache until they are bfloat16


class Operation(NamedTuple):
    """What a layer computes of its input's signs.

    Attributes:
        geometry: as a 2-D convolution.
        dtype: of the output.
        by_engine: the bit engine is faster than torch's own operation.
    """

    layer: QuantizedLayer
    geometry: ConvGeometry
    dtype: torch.dtype
    by_engine: bool

    @property
    def dims(self) -> int:
        """Of the convolution; 0: linear."""
        return len(self.layer.kernel_size)

    @property
    def derivative(self) -> Callable[[Tensor], Tensor] | None:
        """What stands for the sign's."""
        return type(self.layer.scheme).surrogate


def operation(layer: QuantizedLayer, x: Tensor) -> Operation | None:
    """What the layer computes on bits; None where plain torch does all."""
    scheme, dims = layer.scheme, len(layer.kernel_size)
    if type(scheme).surrogate not in _SURROGATES or type(scheme).input is not Scheme.input or not scheme.signed_input:
        return None
    if scheme.scales_output or layer.transposed or dims > 2 or kept_bits.engine(x) is not cpu_signs:
        return None
    if x.dim() != dims + 2 if dims else not x.is_contiguous():
        return None
    geometry, options = conv2d_form(layer)
    if options or geometry.padding[:2] != geometry.padding[2:]:
        return None
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return Operation(layer, geometry, dtype, _is_faster(geometry, dtype)) if dtype in cpu_signs.DTYPES else None


def _is_faster(geometry: ConvGeometry, dtype: torch.dtype) -> bool:
    if dtype is torch.bfloat16 and "amx" in kernels.available_kernels():
        return False  # its tiles multiply bfloat16 in hardly more time than the engine takes to write the result
    _, channels, *_ = geometry.filters
    return channels >= _LEAST_CHANNELS and geometry.out_channels // geometry.groups >= _LEAST_OUTPUTS


def sign_product(x: Tensor, weight: Tensor, of: Operation) -> Tensor:
    """``y`` of the module's docstring; ``weight`` = alpha B, in the layout of filters."""
    threshold, bias, order = of.layer.threshold, of.layer.bias, memory_order(x)
    if torch.is_grad_enabled():
        signs, positive = _Signs.apply(x, threshold, of)
        return _Product.apply(signs, positive, order, weight, bias, of)
    positive, _ = cpu_signs.level_bits(x, _levels(threshold, x), of.layer.channel_dim, None)
    return _product(x, positive, order, weight, bias, of)


def _levels(threshold: Tensor | None, x: Tensor) -> Tensor | None:
    """The threshold as plain torch subtracts it from ``x``, in float32."""
    return None if threshold is None else threshold.to(x.dtype).float()


class _Signs(torch.autograd.Function):
    """The signs as bits, and a tensor without memory that stands for them in the graph."""

    @staticmethod
    def forward(ctx, x: Tensor, threshold: Tensor | None, of: Operation) -> tuple[Tensor, Tensor]:
        curved = of.derivative is ste.triangle
        closed = None if curved else of.derivative is ste.inside_closed
        positive, inside = cpu_signs.level_bits(x, _levels(threshold, x), of.layer.channel_dim, closed)
        ctx.of, ctx.order = of, memory_order(x)
        ctx.save_for_backward(*((x, threshold) if curved else (inside,)))
        ctx.mark_non_differentiable(positive)
        return x.new_empty(()).expand_as(x), positive

    @staticmethod
    def backward(ctx, grad: Tensor, _):
        summed, dim = ctx.needs_input_grad[1], ctx.of.layer.channel_dim
        if torch.is_grad_enabled():  # of a gradient a gradient will be taken: torch has to see what happens
            passed = _pass_in_plain_torch(ctx, grad)
            sums = passed.movedim(dim, 0).flatten(1).sum(1, dtype=torch.float32) if summed else None
        elif ctx.of.derivative is ste.triangle:
            x, threshold = ctx.saved_tensors
            passed, sums = cpu_signs.pass_triangle(grad, x, _levels(threshold, x), dim, summed)
        else:
            (inside,) = ctx.saved_tensors
            passed, sums = cpu_signs.pass_level_inside(grad, inside, ctx.order, dim, summed)
        return passed, None if sums is None else -sums, None


def _pass_in_plain_torch(ctx, grad: Tensor) -> Tensor:
    if ctx.of.derivative is ste.triangle:
        x, threshold = ctx.saved_tensors
        return grad * ste.triangle(x if threshold is None else x - ctx.of.layer.per_channel(threshold).to(x.dtype))
    (inside,) = ctx.saved_tensors
    return grad * (cpu_signs.signs(inside, ctx.order) > 0)


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
        return _product(signs, positive, order, weight, bias, of)

    @staticmethod
    def backward(ctx, grad: Tensor):
        signs, positive, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # see _Signs
            shown = _Shown.apply(signs, positive, ctx.order)
            y = ctx.of.layer.apply_weight(shown, weight.to(shown.dtype), None if bias is None else bias.to(shown.dtype))
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


def _product(
    signs: Tensor, positive: Tensor, order: MemoryOrder, weight: Tensor, bias: Tensor | None, of: Operation
) -> Tensor:
    """The forward pass; of ``signs`` the shape alone."""
    # A scheme of one's own may make weights that are not +-alpha.
    signs_of_weight = cpu_signs.filter_signs(weight) if of.by_engine else None
    if signs_of_weight is not None:
        return _own(_on_bits(signs, positive, order, *signs_of_weight, bias, of))
    shown = cpu_signs.signs(positive, order._replace(dtype=of.dtype))
    return _own(of.layer.apply_weight(shown, weight.to(of.dtype), None if bias is None else bias.to(of.dtype)))


def _on_bits(
    signs: Tensor,
    positive: Tensor,
    order: MemoryOrder,
    dense: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    of: Operation,
) -> Tensor:
    """The forward pass with weights of :func:`cpu_signs.filter_signs`; of ``signs`` the shape alone."""
    layer, geometry = of.layer, of.geometry
    batch, _, height, width = to_batch(layer, signs).shape
    prepared = kernels.prepare_weights(dense, geometry, cpu_signs.step_kernel(), (height, width))
    words = cpu_signs.pixel_words(positive, order, layer.channel_dim).view(batch, height, width, -1)
    epilogue = Epilogue(scale, None if bias is None else bias.float())
    channels_last = order.stride[layer.channel_dim] == 1 and order.size[layer.channel_dim] > 1 and height * width > 1
    layout: Layout = "nhwc" if of.dims == 0 or (of.dims == 2 and channels_last) else "nchw"
    return from_batch(layer, _convolved(words, prepared, geometry, epilogue, layout, of.dtype), signs)


def _own(y: Tensor) -> Tensor:
    """The memory of a contiguous view as no view, which an in-place ReLU behind the layer could not change."""
    if not y._is_view():
        return y
    return torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, y.shape)  # type: ignore[call-overload]


def _convolved(
    words: Tensor,
    prepared: PreparedWeights,
    geometry: ConvGeometry,
    epilogue: Epilogue,
    layout: Layout,
    dtype: torch.dtype,
) -> Tensor:
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
