"""Run a network once on an example and see what its layers do: order, first and last, input signs."""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


def call_arguments(example_input: Any) -> tuple[tuple, dict]:
    """(args, kwargs) of the model's call: a tensor is one argument, a tuple or list several, a dict keywords."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, (tuple, list)):
        return tuple(example_input), {}
    return (example_input,), {}


def run(model: nn.Module, example_input: Any) -> Any:
    """Call ``model`` on ``example_input``; ValueError when it does not take it."""
    args, kwargs = call_arguments(example_input)
    try:
        return model(*args, **kwargs)
    except Exception as error:  # the model's own checks raise what they like
        raise ValueError(f"the model does not run on example_input, {describe(example_input)}: {error}") from error


def describe(example_input: Any) -> str:
    """The shapes in ``example_input``, for a message."""
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in tree_leaves(example_input)]
    return "of shape " + ", ".join(map(str, shapes))


@dataclasses.dataclass
class Observation:
    """What one run showed.

    Attributes:
        ran: the layers that ran.
        first: layers that see the network's input with no other layer in between.
        last: for each output tensor, the layer that ran last among those it depends on.
        negative_share: layer -> share of its input values that are below zero.
        input_mean: layer -> mean of its input, one a channel.
        output_size: layer -> spatial size of its output.
    """

    ran: list[nn.Module] = dataclasses.field(default_factory=list)
    first: set[nn.Module] = dataclasses.field(default_factory=set)
    last: set[nn.Module] = dataclasses.field(default_factory=set)
    negative_share: dict[nn.Module, float] = dataclasses.field(default_factory=dict)
    input_mean: dict[nn.Module, Tensor] = dataclasses.field(default_factory=dict)
    output_size: dict[nn.Module, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def observe(model: nn.Module, layers: Iterable[nn.Module], example_input: Any, channel_dim) -> Observation:
    """Run ``model`` on ``example_input`` and report on ``layers``; the model is left as it was.

    Batch norm uses the batch's own statistics, so that an untrained network shows the signs that it
    will have in training (running statistics of 0 and 1 leave a ReLU's output non-negative); dropout
    is off. Buffers, modes and the random state are restored.

    Args:
        channel_dim: function from a layer to the channel dimension of its input.

    Raises ValueError when the model does not run on ``example_input``.
    """
    layers = list(layers)
    with _unchanged(model, layers):
        try:
            return _run(model, layers, example_input, channel_dim, batch_statistics=True)
        except ValueError:
            # "Expected more than 1 value per channel when training": one sample, 1x1 maps.
            return _run(model, layers, example_input, channel_dim, batch_statistics=False)


def _run(model, layers, example_input, channel_dim, batch_statistics: bool) -> Observation:
    for module in model.modules():
        module.training = batch_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm)
    seen = Observation()
    owners = defaultdict(list)
    for layer in layers:
        for parameter in layer.parameters():
            owners[id(parameter)].append(layer)
    tracked, inputs = _tracked(example_input)

    def watch(layer, hook_args, hook_kwargs):
        x = next(t for t in (*hook_args, *hook_kwargs.values()) if isinstance(t, Tensor))
        if layer not in seen.input_mean:
            _record_values(seen, layer, x.detach(), channel_dim(layer))
        if _reaches(x, inputs) and not _reaches(x, owners):
            seen.first.add(layer)
        with contextlib.suppress(ValueError):
            seen.ran.remove(layer)  # a layer that runs again counts where it ran last
        seen.ran.append(layer)

    def measure(layer, _args, output):
        seen.output_size[layer] = tuple(output.shape[output.dim() + channel_dim(layer) + 1 :])

    handles = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(measure) for layer in layers]
    try:
        with torch.enable_grad():
            outputs = run(model, tracked)
    finally:
        for handle in handles:
            handle.remove()
    _find_last(seen, outputs, owners)
    if not seen.first:
        seen.first.update(seen.ran[:1])  # inputs without gradient, such as token ids
    return seen


def _record_values(seen: Observation, layer: nn.Module, x: Tensor, channel_dim: int) -> None:
    seen.negative_share[layer] = (x < 0).float().mean().item()
    channels = x.shape[channel_dim]
    seen.input_mean[layer] = x.float().movedim(channel_dim, -1).reshape(-1, channels).mean(0)


def _find_last(seen: Observation, outputs: Any, owners: dict[int, list[nn.Module]]) -> None:
    position = {layer: i for i, layer in enumerate(seen.ran)}
    for output in tree_leaves(outputs):
        if isinstance(output, Tensor):
            used = [layer for leaf in _leaves(output) for layer in owners.get(leaf, ()) if layer in position]
            if used:
                seen.last.add(max(used, key=position.__getitem__))
    if not seen.last:
        seen.last.update(seen.ran[-1:])


def _tracked(example_input: Any) -> tuple[Any, dict[int, Tensor]]:
    """The input as copies whose use autograd records, and their leaves by id."""
    leaves: dict[int, Tensor] = {}

    def track(value):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaf = value.detach().requires_grad_()
        leaves[id(leaf)] = leaf
        return leaf.clone()  # not a leaf, so that the model may change it in place

    return tree_map(track, example_input), leaves


def _leaves(x: Tensor) -> Iterator[int]:
    """The ids of the leaf tensors that ``x`` was computed from, as autograd recorded it."""
    pending, visited = [x.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            yield id(node.variable)
        pending += (parent for parent, _ in node.next_functions)


def _reaches(x: Tensor, leaves: Mapping[int, Any]) -> bool:
    return any(leaf in leaves for leaf in _leaves(x))


@contextlib.contextmanager
def _unchanged(model: nn.Module, layers: list[nn.Module]) -> Iterator[None]:
    """Restore modes, buffers, gradient flags and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    # The slots too: a forward pass may put another tensor in a buffer's place.
    slots = [(module._buffers, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    frozen = [p for layer in layers for p in layer.parameters() if not p.requires_grad and p.is_floating_point()]
    devices = {p.get_device() for p in model.parameters() if p.is_cuda}
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
        for owner, name, buffer in slots:
            owner[name] = buffer
        for parameter in frozen:
            parameter.requires_grad_(False)
