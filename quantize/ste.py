"""sign() and the straight-through estimators: the only place where a gradient is invented.

Everything binary in xnorkit goes through :func:`sign`, so that one convention holds in training,
evaluation, ONNX and every kernel: ``sign(x) = +1 where x >= 0, else -1``, never 0, and NaN gives -1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import kept_bits


def sign(x: Tensor) -> Tensor:
    """+1 where ``x >= 0``, else -1 (NaN: -1), in the dtype and shape of ``x``. No gradient."""
    # A compiler fuses it, and an exported graph shows Where; torch.func's transforms know no out=.
    if torch.compiler.is_compiling() or kept_bits.is_transformed():
        return plus_minus(x >= 0, x.dtype)
    # 0 or 1 in the right dtype, then two passes in place: a third of the time of where() on a CPU.
    return torch.ge(x.detach(), 0, out=torch.empty_like(x, requires_grad=False)).mul_(2).sub_(1)


def plus_minus(condition: Tensor, dtype: torch.dtype) -> Tensor:
    """+1 where ``condition``, else -1."""
    values = torch.where(condition, 1.0, -1.0)
    # A to() that does nothing gives another name to the same tensor; torch.compile of torch 2.11 then takes the
    # gradient of an autograd function that returns it for zero.
    return values if values.dtype == dtype else values.to(dtype)


def inside_open(x: Tensor) -> Tensor:
    """Surrogate derivative of sign on activations: 1 where ``|x| < 1`` (XNOR-Net)."""
    return x.abs() < 1


def inside_closed(x: Tensor) -> Tensor:
    """Surrogate derivative of sign on weights: 1 where ``|x| <= 1`` (BinaryNet, hard tanh)."""
    return x.abs() <= 1


def triangle(x: Tensor) -> Tensor:
    """Surrogate derivative of sign: ``2 + 2x`` on [-1, 0), ``2 - 2x`` on [0, 1), else 0 (Bi-Real Net)."""
    return (2 - 2 * x.abs()).clamp_min(0)


def _has_gradient(x: Tensor) -> bool:
    """Whether a gradient may be asked of what is computed of ``x``; where not, autograd costs its call, 0.1 ms."""
    if kept_bits.is_written_down():  # the graph is the same with and without one
        return True
    return (x.requires_grad and torch.is_grad_enabled()) or kept_bits.is_transformed()


class _SurrogateSign(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        return sign(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, ctx.derivative = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        if ctx.derivative is inside_open:  # the same in one pass instead of three, but for NaN
            return torch.ops.aten.hardtanh_backward(grad, x, -1.0, 1.0), None
        return grad * ctx.derivative(x), None


def ste_sign(x: Tensor, derivative: Callable[[Tensor], Tensor] = inside_open) -> Tensor:
    """Sign with a surrogate gradient.

    Forward: ``sign(x)``. Backward: ``grad * derivative(x)``. ``derivative`` is an elementwise
    function of ``x``; the default passes the gradient where ``|x| < 1``.

    Source: Courbariaux et al., *Binarized Neural Networks*, 2016, eq. 4.
    """
    kernel = kept_bits.backend(x) if derivative in (inside_open, inside_closed) else None
    if kernel is not None:
        return kept_bits.sign(x, derivative is inside_closed, kernel)
    return _SurrogateSign.apply(x, derivative) if _has_gradient(x) else sign(x)


class _Round(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


def ste_round(x: Tensor) -> Tensor:
    """Forward: ``round(x)``, ties to even. Backward: the gradient unchanged."""
    return _Round.apply(x) if _has_gradient(x) else torch.round(x)


def magnitude(x: Tensor) -> Tensor:
    """``|x|`` whose derivative is ``sign(x)``, so +1 at 0 where ``torch.abs`` has 0."""
    return x * sign(x.detach())


class _Clip(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low, high) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        x, low, high = inputs
        ctx.save_for_backward((x >= low) & (x <= high))

    @staticmethod
    def backward(ctx, grad: Tensor):
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


def clip(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """``clamp(x, low, high)``, with the gradient passed where ``low <= x <= high``.

    The gradient of ``torch.clamp`` at the bounds themselves differs between releases of torch.
    """
    return _Clip.apply(x, low, high) if _has_gradient(x) else torch.clamp(x, low, high)  # type: ignore[arg-type]


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor, values: Tensor, scale: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, grad: Tensor):
        (scale,) = ctx.saved_tensors
        return grad / scale, None, None  # the caller multiplies by scale, so autograd hands us scale * G


def straight_through(w: Tensor, values: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """``values`` and ``scale``, with the gradient that makes ``d(values * scale)/dw`` the identity.

    For schemes whose paper hands the gradient of the quantized weight to the latent one unchanged
    (DoReFa-Net at 1 bit, TWN). ``scale`` must not require a gradient; it is >= 0 and broadcastable.
    A scale of 0 becomes 1e-19 in float32, so that a filter that starts at zero can leave it: G is
    known from ``scale * G`` alone.
    """
    scale = torch.where(scale > 0, scale, torch.finfo(scale.dtype).tiny ** 0.5)
    return _StraightThrough.apply(w, values, scale), scale
