"""Training with bits kept for the backward pass instead of floats: the same gradients, in fewer passes over memory.

A binary layer keeps two bits an element of its input, where it is positive for the gradient of the weights and where
it lies inside the surrogate's bounds for its own, and two bits a weight. It needs the native library and float32 on
the CPU, Triton on a GPU; :func:`quantize.ste.ste_sign` and the schemes have the same in plain torch for the rest.
"""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from . import kernels
from .kernels.training import MemoryOrder, TrainingBackend, memory_order


def backend(x: Tensor) -> TrainingBackend | None:
    """Who keeps bits of ``x`` for the way back; None where nobody can, or nothing is kept."""
    return engine(x) if torch.is_grad_enabled() else None


def engine(x: Tensor) -> TrainingBackend | None:
    """Who computes on bits of ``x``; None where nobody can."""
    if is_written_down() or is_transformed():
        return None
    kernel = kernels.training_backend(x)
    return kernel if kernel is not None and kernel.takes(x) else None


def is_written_down() -> bool:
    """Whether what is computed becomes a graph: it is compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` (grad, vmap) is at work, whose tensors have no memory of their own."""
    return torch._C._are_functorch_transforms_active()


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, closed: bool, kernel: TrainingBackend) -> tuple[Tensor, Tensor]:
        values, positive, inside = kernel.sign(x, closed)
        ctx.save_for_backward(inside)
        ctx.order, ctx.kernel = memory_order(x), kernel
        ctx.mark_non_differentiable(positive)
        return values, positive

    @staticmethod
    def backward(ctx, grad: Tensor, _):
        (inside,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # of a gradient a gradient will be taken: torch has to see what happens
            return grad * (ctx.kernel.signs(inside, ctx.order) > 0), None, None
        return ctx.kernel.pass_inside(grad, inside, ctx.order), None, None


def sign(x: Tensor, closed: bool, kernel: TrainingBackend) -> Tensor:
    """Sign with the gradient passed where ``|x| < 1``, or ``|x| <= 1`` with ``closed``.

    The result knows its own bits.
    """
    values, positive = _Sign.apply(x, closed, kernel)
    values.sign_bits = positive
    return values


@contextlib.contextmanager
def signs_as_bits(x: Tensor) -> Iterator[None]:
    """Inside, where autograd keeps ``x`` itself, which is +-1, it keeps its bits."""
    kernel = backend(x)
    if kernel is None:
        yield
        return
    positive = x.sign_bits if hasattr(x, "sign_bits") else kernel.positive_bits(x)
    address, elements = x.data_ptr(), x.numel()  # the hooks live as long as what is kept; x itself must not

    def pack(kept: Tensor) -> Tensor | MemoryOrder:
        same = kept.data_ptr() == address and kept.numel() == elements and kernel.takes(kept)
        return memory_order(kept) if same else kept

    def unpack(kept: Tensor | MemoryOrder) -> Tensor:
        return kept if isinstance(kept, Tensor) else kernel.signs(positive, kept)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


class _ScaledSign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, filters: Tensor, center: bool, kernel: TrainingBackend, reference: Callable[[Tensor], Tensor]
    ) -> Tensor:
        values, kept = kernel.scaled_sign(filters, center)
        # The filters are a parameter, or kept by what made them of one.
        ctx.save_for_backward(filters, *kept)
        ctx.center, ctx.kernel, ctx.reference = center, kernel, reference
        return values

    @staticmethod
    def backward(ctx, grad: Tensor):
        filters, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # see _Sign
            return *torch.autograd.grad(ctx.reference(filters), filters, grad, create_graph=True), None, None, None
        return ctx.kernel.scaled_sign_gradient(grad, filters, ctx.center, *kept), None, None, None


def scaled_sign(filters: Tensor, center: bool, reference: Callable[[Tensor], Tensor]) -> Tensor:
    """``alpha sign(C)`` of :class:`quantize.schemes.XNOR`; ``reference(filters)`` computes it in plain torch."""
    kernel = backend(filters)
    if kernel is None or not kernel.takes_filters(filters):
        return reference(filters)
    return _ScaledSign.apply(filters, center, kernel, reference)
