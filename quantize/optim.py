"""What a training loop does for a binary network: parameter groups, clipping, progress, stages, statistics."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from .binary.layers import BinaryLayer
from .calling import run


def param_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for a torch optimizer: weight decay on weight matrices and filters only.

    A decayed scale, threshold, batch norm or RPReLU parameter has no use, and biases are left out by
    habit: whatever has fewer than two dimensions, or is what a scheme has added to a layer, gets 0.

    Raises ValueError for a negative ``weight_decay``.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay is {weight_decay}; it must be 0 or more")
    binary = [module for module in model.modules() if isinstance(module, BinaryLayer)]
    added = {id(p) for layer in binary for name, p in layer.named_parameters(recurse=False) if name != "weight"}
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if p.dim() >= 2 and id(p) not in added]
    chosen = {id(p) for p in decayed}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) not in chosen], "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_latent_weights(layers: nn.Module | Iterable[BinaryLayer], limit: float = 1.0) -> None:
    """Clamp the latent weights of binary layers to [-limit, limit], in place.

    Where the surrogate gradient is zero outside [-1, 1] a weight that has left cannot come back
    (Courbariaux et al., *BinaryConnect*, 2015, sec. 2.4).
    """
    for layer in layers.modules() if isinstance(layers, nn.Module) else layers:
        if isinstance(layer, BinaryLayer):
            layer.weight.clamp_(-limit, limit)


def clip_after_step(optimizer: Optimizer, model: nn.Module, limit: float = 1.0) -> RemovableHandle:
    """Clip the latent weights of ``model`` after each step of ``optimizer``; returns the hook's handle.

    Raises ValueError when ``limit`` is not positive.
    """
    if limit <= 0:
        raise ValueError(f"limit is {limit}; it must be above 0, 1 where the surrogate gradient ends")
    layers = [module for module in model.modules() if isinstance(module, BinaryLayer)]
    return optimizer.register_step_post_hook(lambda *_: clip_latent_weights(layers, limit))


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell the annealed layers of ``model`` how far training is: 0 at its start, 1 at its end.

    A model without such layers is left as it is. Raises ValueError outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it must lie between 0 (start of training) and 1 (end)")
    for module in model.modules():
        if isinstance(module, BinaryLayer) and module.scheme.annealed:
            module.progress.fill_(progress)
            module.progress_set = True


def anneal_after_step(optimizer: Optimizer, model: nn.Module, steps: int, done: int = 0) -> RemovableHandle:
    """Let the annealed layers of ``model`` follow the steps of ``optimizer``; returns the hook's handle.

    Their progress (:func:`set_progress`) is 0 at the first of ``steps`` steps and 1 after the last. ``done`` of them
    are done already where a training goes on. Raises ValueError where there is no step to do.
    """
    if not 0 <= done < steps:
        raise ValueError(f"{done} of {steps} steps are done; steps must be those of the whole training, more than done")
    counted = itertools.count(done + 1)
    set_progress(model, done / steps)
    return optimizer.register_step_post_hook(lambda *_: set_progress(model, min(1.0, next(counted) / steps)))


def use_float_weights(model: nn.Module, enabled: bool) -> None:
    """Let the binary layers of ``model`` compute with their latent weights, or with their quantized ones again.

    The first of two training stages: binary inputs, float weights (Bulat & Tzimiropoulos, *XNOR-Net++*,
    2019; Liu et al., *ReActNet*, 2020). It is part of training, not of the model: neither the state_dict
    nor :func:`restore` knows it, and a network ships with it off. Converted layers have no latent weights, and stay
    as they are.
    """
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            module.float_weights = enabled


@torch.no_grad()
def estimate_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set batch norm's running statistics to mean and variance of all that it sees of ``batches``, as evaluation
    computes them.

    Where training draws its weights (``binaryconnect:stochastic=True``), the statistics that it leaves are those of
    random weights, and with the signs that evaluate and ship the network computes noise: call this after training, and
    before each evaluation on the way. Elsewhere it makes good that running averages lag behind weights that still
    change. Batches may differ in size and in kind, though each is normalized by its own statistics on the way: let each
    be of all classes. Thresholds that wait for a batch get it. The model is left in evaluation mode.

    Args:
        batches: inputs of the training set, each what the model is called with, as for :func:`quantize.prepare`.

    Raises ValueError without a batch, or for one that the model does not take.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    layers = [m for m in model.modules() if isinstance(m, BinaryLayer)]
    momenta = [norm.momentum for norm in norms]
    batches = iter(batches)  # one at a time: thousands of pictures are gigabytes
    first = next(batches, None)
    if first is None:
        raise ValueError("there is no batch to estimate statistics from; give some of the training set's")
    for layer in layers:
        layer.drawn = False
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = 1.0  # the running statistics are then the last batch's
    for module in (*norms, *(layer for layer in layers if layer.threshold_pending)):
        module.train()
    moments = [_Moments(norm) for norm in norms]
    try:
        for batch in itertools.chain([first], batches):
            run(model, batch)
            for layer in layers:
                layer.eval()  # the first batch has set its threshold
    finally:
        model.eval()
        for norm, momentum, seen in zip(norms, momenta, moments, strict=True):
            norm.momentum = momentum
            seen.finish()


class _Moments:
    """Mean and variance a channel of all that ``norm``, in training with momentum 1, is called with from here on.

    n values of mean m and summed squared deviation S, and those of a batch, n', m', S', are together
    (Chan, Golub & LeVeque, *Updating Formulae and a Pairwise Algorithm for Computing Sample Variances*, 1979)

        m + (m' - m) n' / (n + n'),   S + S' + (m' - m)^2 n n' / (n + n')
    """

    def __init__(self, norm: _BatchNorm):
        assert norm.running_mean is not None  # of those that track statistics
        assert norm.running_var is not None
        self.last_mean, self.last_variance = norm.running_mean, norm.running_var
        self.count = 0
        self.mean, self.squares = torch.zeros_like(self.last_mean), torch.zeros_like(self.last_variance)
        self.hook = norm.register_forward_hook(self._include, with_kwargs=True)

    def _include(self, norm: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        x = args[0] if args else kwargs["input"]
        count = x.numel() // len(self.mean)
        share, difference = count / (self.count + count), self.last_mean - self.mean
        self.squares += self.last_variance * (count - 1) + difference.square() * (self.count * share)
        self.mean += difference * share
        self.count += count

    def finish(self) -> None:
        """Give the norm what was found, where it was called at all."""
        self.hook.remove()
        if self.count:
            self.last_mean.copy_(self.mean)
            self.last_variance.copy_(self.squares / (self.count - 1))
