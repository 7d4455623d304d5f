"""What a layer takes under a scheme: bytes in a file, seconds on this machine."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ..binary.layers import BinaryLayer
from ..calling import run
from ..complexity import packed_weight_bytes
from ..packed.convert import convert
from ..prepare import prepare, restore

ROUNDS = 15  # of which the median counts: other processes interrupt some

Costs = dict[tuple[str, str | None], float]  # of a layer under a scheme; None: float


def packed_bytes(layers: Mapping[str, BinaryLayer], schemes: Iterable[str]) -> Costs:
    """Bytes of the layers' weights with their scales, in float and under each scheme."""
    costs: Costs = {}
    for name, layer in layers.items():
        costs[name, None] = layer.weight.numel() * layer.weight.element_size()
        for scheme in schemes:
            costs[name, scheme] = packed_weight_bytes(_under(layer, scheme))
    return costs


@torch.no_grad()
def seconds(model: nn.Module, layers: Mapping[str, BinaryLayer], schemes: Iterable[str], example_input: Any) -> Costs:
    """Median seconds of the layers, float and converted, each alone on what it gets when ``model`` runs.

    ``layers`` are those of ``model``, in evaluation mode. The forms of a layer take turns.
    """
    calls = _calls(model, layers, example_input)
    costs: Costs = {}
    for name, (args, kwargs) in calls.items():
        forms: dict[str | None, nn.Module] = {None: restore(layers[name])}
        for scheme in schemes:
            forms[scheme] = convert(_under(layers[name], scheme), (*args, kwargs) if kwargs else args, check=False)
        times = _median_times({scheme: partial(form, *args, **kwargs) for scheme, form in forms.items()})
        costs.update({(name, scheme): times[scheme] for scheme in forms})
    return costs


def _under(layer: BinaryLayer, scheme: str) -> BinaryLayer:
    """A copy of ``layer`` with another scheme; its threshold does not change what it costs."""
    if str(layer.scheme) == scheme:
        return copy.deepcopy(layer)
    other = prepare(restore(layer), scheme, keep_float=(), inplace=True).eval()
    assert isinstance(other, BinaryLayer)
    return other


def _calls(model: nn.Module, layers: Mapping[str, BinaryLayer], example_input: Any) -> dict[str, tuple[tuple, dict]]:
    """Name -> arguments of the last call of each layer that runs."""
    calls: dict[str, tuple[tuple, dict]] = {}

    def remember(name: str):
        return lambda _module, args, kwargs: calls.update({name: (args, kwargs)})

    hooks = [layer.register_forward_pre_hook(remember(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        run(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _median_times(functions: Mapping[str | None, Callable[[], Any]]) -> dict[str | None, float]:
    times: dict[str | None, list[float]] = {key: [] for key in functions}
    for function in functions.values():
        function()
    for _ in range(ROUNDS):
        for key, function in functions.items():
            start = time.perf_counter()
            function()
            times[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in times.items()}
