"""Batch norm over the batches of all processes, as if they were one."""

import functools

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from .distributed import process_count, rank


def synchronize_batch_norm(model: nn.Module, compiled: bool = False) -> None:
    """Let every batch norm of ``model`` normalize training batches with the mean and variance over all processes.

    The modules keep their class, so that whoever looks for batch norm still finds it. Raises ValueError for a
    subclass with a forward of its own, other than timm's, which has an activation behind it. A ``compiled`` model
    leaves its graph for them.
    """
    forward = torch.compiler.disable(_forward) if compiled else _forward  # not for all: it loads the compiler
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            if type(module).forward is not _BatchNorm.forward and not hasattr(module, "act"):
                kind = type(module).__name__
                raise ValueError(f"{name!r} ({kind}) cannot be shared by processes; train this network in one process")
            module.forward = functools.partial(forward, module)


def _forward(module: _BatchNorm, x: Tensor) -> Tensor:
    if not module.training:
        return type(module).forward(module, x)
    share = module.momentum or 0.0
    if module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        share = 1 / module.num_batches_tracked.item() if module.momentum is None else module.momentum
    normalize = _on_cuda if x.is_cuda else _on_cpu
    x = normalize(module, x, share)
    for name in ("drop", "act"):  # timm's BatchNormAct2d
        x = getattr(module, name)(x) if hasattr(module, name) else x
    return x


def _on_cuda(module: _BatchNorm, x: Tensor, share: float) -> Tensor:
    """torch's fused kernels, which are for CUDA alone."""
    statistics = module.running_mean, module.running_var
    group = dist.group.WORLD
    return SyncBatchNorm.apply(x, module.weight, module.bias, *statistics, module.eps, share, group, process_count())


def _on_cpu(module: _BatchNorm, x: Tensor, share: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    count, mean, variance = _statistics(wide)
    if module.running_mean is not None:
        with torch.no_grad():
            module.running_mean.lerp_(mean, share)
            module.running_var.lerp_(variance * (count / (count - 1)), share)
    shape = (1, -1) + (1,) * (x.dim() - 2)
    scale = (variance + module.eps).rsqrt()
    scale = scale if module.weight is None else scale * module.weight
    y = (wide - mean.view(shape)) * scale.view(shape)
    return (y if module.bias is None else y + module.bias.view(shape)).to(x.dtype)


def _statistics(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """(values, mean, biased variance) a channel of ``x``, (N, C, ...), over all processes; their batches are as large.

    With means m_r and variances v_r of n processes: m = mean(m_r), and, without a difference of large numbers,
    v = mean(v_r + (m_r - m)^2) (Chan et al., *Updating Formulae*, 1979).
    """
    variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    own = x.new_zeros(process_count(), 1, 1)
    own[rank()] = 1
    means, variances = _Sum.apply(own * torch.stack([mean, variance])).unbind(1)
    mean = means.mean(0)
    return x.numel() // x.shape[1] * process_count(), mean, (variances + (means - mean).square()).mean(0)


class _Sum(torch.autograd.Function):
    """The sum over all processes; each process's gradient is the sum of the gradients that all have of it."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
