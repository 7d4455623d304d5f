"""Run a network once on an example and see what its layers do: order, first and last, input signs."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_map

from ..binary.threshold import channel_sums, constant_sign
from ..calling import check_has_values, run, tensors_in
from .topology import Topology, node_of
from .untouched import stand_in


@dataclasses.dataclass
class Observation:
    """What one run showed.

    Attributes:
        ran: the layers that ran, in the order in which each ran last.
        calls: how often each ran.
        first: layers that see the network's input with no other weight in between.
        last: for each output tensor, the layer that ran last among those it depends on.
        projections: convolutions of kernel 1 that are all there is between a tensor and the sum of a shortcut.
        gates: layers whose output, one value a channel, the tensor that it was computed from is multiplied by.
        products: id of a parameter -> how many matrix products it took part in.
        input_sums: layer -> :func:`channel_sums` of its input; where it ran more than once, of the one with the
            most channels of constant sign.
        output_size: layer -> spatial size of its output.
    """

    ran: list[nn.Module] = dataclasses.field(default_factory=list)
    calls: Counter[nn.Module] = dataclasses.field(default_factory=Counter)
    first: set[nn.Module] = dataclasses.field(default_factory=set)
    last: set[nn.Module] = dataclasses.field(default_factory=set)
    projections: set[nn.Module] = dataclasses.field(default_factory=set)
    gates: set[nn.Module] = dataclasses.field(default_factory=set)
    products: Counter[int] = dataclasses.field(default_factory=Counter)
    input_sums: dict[nn.Module, Tensor] = dataclasses.field(default_factory=dict)
    output_size: dict[nn.Module, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def of_originals(self, model: nn.Module, copied: nn.Module) -> "Observation":
        """The same of the layers and parameters of ``model``, of which ``copied`` is a copy."""
        layer = dict(zip(copied.modules(), model.modules(), strict=True))
        parameter = dict(zip(map(id, copied.parameters()), map(id, model.parameters()), strict=True))

        def originals(found: set[nn.Module]) -> set[nn.Module]:
            return {layer[one] for one in found}

        return Observation(
            [layer[one] for one in self.ran],
            Counter({layer[one]: calls for one, calls in self.calls.items()}),
            originals(self.first),
            originals(self.last),
            originals(self.projections),
            originals(self.gates),
            Counter({parameter[one]: count for one, count in self.products.items() if one in parameter}),
            {layer[one]: sums for one, sums in self.input_sums.items()},
            {layer[one]: size for one, size in self.output_size.items()},
        )


def observe(model: nn.Module, layers: Iterable[nn.Module], example_input: Any, channel_dim) -> Observation:
    """Run ``model``, or rather a copy of it, on ``example_input`` and report on ``layers``.

    Batch norm uses the batch's own statistics, so that an untrained network shows the signs that it
    will have in training (running statistics of 0 and 1 leave a ReLU's output non-negative); dropout
    is off. The model is left as it was, and so is the random state.

    Args:
        channel_dim: function from a layer to the channel dimension of its input.

    Raises ValueError when the model does not run on ``example_input``, or is on the meta device.
    """
    layers = list(layers)
    check_has_values(model, "give no example_input")
    try:
        return _observe(model, layers, example_input, channel_dim, True)
    except ValueError:
        # "Expected more than 1 value per channel when training": one sample, 1x1 maps.
        return _observe(model, layers, example_input, channel_dim, False)


def _observe(
    model: nn.Module, layers: list[nn.Module], example_input: Any, channel_dim, batch_statistics: bool
) -> Observation:
    with stand_in(model) as watched:
        counterparts = dict(zip(model.modules(), watched.modules(), strict=True))
        run = _Run(watched, [counterparts[layer] for layer in layers], channel_dim, batch_statistics)
        return run.observe(example_input).of_originals(model, watched)


class _Run:
    """One run of a model whose layers are watched."""

    def __init__(self, model: nn.Module, layers: list[nn.Module], channel_dim, batch_statistics: bool):
        for parameter in model.parameters():
            if parameter.is_floating_point() and not parameter.requires_grad:
                parameter.requires_grad_(True)  # frozen ones are followed too
        for module in model.modules():
            module.training = batch_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm)
        self.model, self.layers, self.channel_dim = model, layers, channel_dim
        self.seen = Observation()
        self.inputs: list[tuple[nn.Module, Node | None]] = []
        self.outputs: dict[Node, nn.Module] = {}
        self.one_position: set[nn.Module] = set()

    def observe(self, example_input: Any) -> Observation:
        # In inference mode autograd follows nothing, and parameters that were made in it never.
        inference = any(parameter.is_inference() for parameter in self.model.parameters())
        with torch.inference_mode(inference):
            tracked, leaves = _tracked(example_input)
        handles = [layer.register_forward_pre_hook(self._before, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(self._after) for layer in self.layers]
        try:
            # The graph is read, never run backward: what its nodes would save is let go.
            with (
                torch.inference_mode(inference),
                torch.enable_grad(),
                saved_tensors_hooks(lambda _: None, lambda nothing: nothing),
            ):
                result = run(self.model, tracked)
        finally:
            for handle in handles:
                handle.remove()
        results = [node_of(leaf) for leaf in tensors_in(result)]
        order = {id(p): i for i, layer in enumerate(self.seen.ran) for p in _parameters(layer)}
        others = {id(p): -1 for layer in self.layers for p in _parameters(layer) if id(p) not in order}
        nodes = [*results, *self.outputs, *(node for _, node in self.inputs)]
        topology = Topology(nodes, map(id, leaves), {**order, **others})
        self._find_ends(topology, results)
        self._find_branches(topology)
        self.seen.products = topology.products
        return self.seen

    def _before(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        x = next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor))
        known = [self.seen.input_sums[layer]] if layer in self.seen.calls else []
        sums = [*known, channel_sums(x, self.channel_dim(layer))]
        self.seen.input_sums[layer] = max(sums, key=lambda s: int(constant_sign(s).sum()))
        if known:
            self.seen.ran.remove(layer)  # a layer that runs again counts where it ran last
        self.inputs.append((layer, node_of(x)))
        self.seen.ran.append(layer)
        self.seen.calls[layer] += 1

    def _after(self, layer: nn.Module, _args: tuple, output: Any) -> None:
        if not isinstance(output, Tensor):
            return  # of a forward of its own
        channels = output.dim() + self.channel_dim(layer)
        self.seen.output_size[layer] = size = tuple(output.shape[channels + 1 :])
        if channels <= 1 and all(positions == 1 for positions in size):
            self.one_position.add(layer)
        if output.grad_fn is not None:
            self.outputs[output.grad_fn] = layer

    def _find_ends(self, topology: Topology, results: list[Node | None]) -> None:
        self.seen.first.update(layer for layer, node in self.inputs if topology.is_first(node))
        latest = {topology.latest(node) for node in results}
        self.seen.last.update(self.seen.ran[i] for i in latest if i is not None and i != -1)
        # Inputs without a gradient, such as token ids; outputs without one.
        if not any(topology.is_from_input(node) for _, node in self.inputs):
            self.seen.first.update(self.seen.ran[:1])
        if not self.seen.last:
            self.seen.last.update(self.seen.ran[-1:])

    def _find_branches(self, topology: Topology) -> None:
        for sides in topology.merges("Add"):
            left, right = (self._layers_in(side) for side in sides)
            for alone, others in ((left, right), (right, left)):
                if _is_projection(alone) and others and not _is_projection(others):
                    self.seen.projections |= alone
        for sides in topology.merges("Mul"):
            left, right = (self._layers_in(side) for side in sides)
            gate = left or right  # the other side is the tensor itself
            if not (left and right) and gate <= self.one_position:
                self.seen.gates |= gate

    def _layers_in(self, nodes: set[Node]) -> set[nn.Module]:
        return {self.outputs[node] for node in nodes if node in self.outputs}


def _parameters(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Those that it computes with, that are another module's too."""
    yield from layer.parameters()
    yield from (p for p in (layer.weight, layer.bias) if isinstance(p, nn.Parameter))


def _is_projection(layers: set[nn.Module]) -> bool:
    """Whether it is one convolution of kernel 1."""
    return len(layers) == 1 and all(set(getattr(layer, "kernel_size", ())) == {1} for layer in layers)


def _tracked(example_input: Any) -> tuple[Any, list[Tensor]]:
    """A copy of the input whose use autograd records, and its tensors."""
    leaves: list[Tensor] = []

    def track(value):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        leaf = value.detach().clone().requires_grad_()  # the clone of a tensor from inference mode is none
        leaves.append(leaf)
        return leaf

    return tree_map(track, example_input), leaves
