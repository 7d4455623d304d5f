"""Does a converted model compute what the prepared one does? Proved on inputs, before convert hands it out.

Folding a batch norm into a scale rounds in another way, and where a sum lies within that rounding of a threshold a
sign moves: the outputs of two right models may differ visibly. So where the outputs alone do not agree, the two are
compared part by part, as :mod:`quantize.export.parity` does. Each binary layer of the prepared model gets the signs
that its packed counterpart computed with, so that no rounding is amplified from part to part; its own signs have to be
the same but where the value lies within :data:`TOLERANCE` of the threshold. Equal inputs give equal outputs in every
part: by induction the conversion is right.
"""

import contextlib
import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .. import packing
from ..binary.quantized_layer import QuantizedLayer
from ..calling import copy_model, random_state_kept, run
from ..packing import Bits
from .flow import Link
from .layers import PackedLayer

# Relative to the largest magnitude of a tensor. A part may differ by a few units of 2^-24 = 6e-8, and by what float
# layers behind it make of them; a wrong fusion is off by 1e-2 and more.
TOLERANCE = 1e-4

# Relative to the largest value that a binary layer got: what is left of values that cancel, as the mean of normalized
# ones does, is rounding alone.
NOISE = 2.0**-23


class ConversionMismatch(RuntimeError):
    """The converted model does not compute what the prepared one does."""


def random_like(example_input: Any) -> Any:
    """Another input of the same shapes: new floats of their mean and deviation, else the same values elsewhere."""
    generator = torch.Generator().manual_seed(0)

    def another(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.numel():
            return value
        if not value.is_floating_point():
            return value.flatten()[torch.randperm(value.numel(), generator=generator)].view(value.shape)
        noise = torch.randn(value.shape, generator=generator).to(value)
        deviation = value.std() if value.numel() > 1 else value.new_ones(())
        return noise * deviation.nan_to_num(1.0) + value.mean().nan_to_num(0.0)

    return tree_map(another, example_input)


def agreeing(
    prepared: nn.Module,
    converted: nn.Module,
    links: Sequence[Link],
    convert: Callable[[Sequence[Link]], nn.Module],
    example_input: Any,
) -> tuple[nn.Module, Sequence[Link]]:
    """(``converted``, or what is left of it without the links that change its answers, the links that are left).

    Args:
        prepared: what has the right answers, in evaluation mode.
        converted: with all ``links`` fused.
        convert: makes of links the model in which they are fused.

    Raises ConversionMismatch where the answers are others though nothing is fused.
    """
    inputs = [example_input]
    with contextlib.suppress(ValueError):  # indices, lengths and masks may belong together: it takes no other
        run(copy_model(prepared), random_like(example_input))
        inputs.append(random_like(example_input))

    def problem(candidate: nn.Module) -> str:
        return next(filter(None, (disagreement(prepared, candidate, batch) for batch in inputs)), "")

    if not problem(converted):
        return converted, links
    reason = problem(convert([]))
    if reason:
        raise ConversionMismatch(
            f"the converted model does not compute what the prepared one does: {reason}; if the model is random or "
            "keeps state from call to call, check=False leaves this comparison out"
        )
    kept = _largest_good(links, lambda chosen: not problem(convert(chosen)))
    return convert(kept), kept


def _largest_good(links: Sequence[Link], is_good: Callable[[Sequence[Link]], bool]) -> list[Link]:
    """The links that are good together, found by bisection: one that makes a good set bad is left out."""
    good: list[Link] = []

    def add(part: Sequence[Link]) -> None:
        if is_good([*good, *part]):
            good.extend(part)
        elif len(part) > 1:
            add(part[: len(part) // 2])
            add(part[len(part) // 2 :])

    add(links)
    return good


def disagreement(prepared: nn.Module, converted: nn.Module, example_input: Any) -> str:
    """Where ``converted`` computes something else than ``prepared`` on ``example_input``; "" where it does nowhere.

    Outputs are compared, and tensors that the models keep on themselves. Both models, which are in evaluation mode, are
    left as they were. Raises ValueError where ``prepared`` does not run.
    """
    expected = _run_copy(prepared, example_input)
    taps: dict[str, list[_Tap]] = defaultdict(list)
    try:
        found = _run_copy(converted, example_input, lambda model: _record(model, taps))
    except ValueError as error:
        return str(error)
    inputs = [tap.values.abs().max() for calls in taps.values() for tap in calls if tap.values.numel()]
    noise = NOISE * max((float(size) for size in inputs if size.isfinite()), default=0.0)
    if not _difference(found, expected, noise):
        return ""
    places: list[str] = []
    forced = _run_copy(prepared, example_input, lambda model: _force(model, taps, places))
    return next(iter(places), "") or _difference(found, forced, noise)


def _run_copy(model: nn.Module, example_input: Any, watch=lambda model: []) -> dict[str, Any]:
    """What a copy of ``model`` returns, and what it keeps, by name."""
    own = copy_model(model)
    handles = watch(own)
    with random_state_kept(own), torch.no_grad():
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        output = run(own, example_input)
    for handle in handles:
        handle.remove()
    found = dict(_leaves("the output", output))
    for name, module in own.named_modules():
        if not isinstance(module, (QuantizedLayer, PackedLayer)) and not type(module).__module__.startswith("torch.nn"):
            found |= _leaves(name or "the model", {k: v for k, v in vars(module).items() if not k.startswith("_")})
    return found


def _leaves(name: str, value: Any, depth: int = 6) -> Iterator[tuple[str, Any]]:
    """The tensors in ``value``, which may be an object of any kind, with names that say where they are."""
    if isinstance(value, Tensor):
        yield name, value
    elif depth and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{name}[{key!r}]", item, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _leaves(f"{name}[{i}]", item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not callable(value):  # an object of any class
        for key, item in vars(value).items():
            yield from _leaves(f"{name}.{key}", item, depth - 1)


def _difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], noise: float) -> str:
    """Where the first tensor is that differs beyond rounding, and by how much; "" where none does."""
    for name, reference in expected.items():
        if name not in found:
            return f"{name} is missing"
        apart = relative_difference(found[name], reference, noise)
        if not apart <= TOLERANCE:
            return f"{name} differs by {apart:.2g} of its largest value"
    return ""


def relative_difference(found: Tensor, expected: Tensor, noise: float = 0.0) -> float:
    """max |found - expected| / max |expected|, 0 where the first is ``noise`` at most.

    Infinite where shapes, kinds or the places of NaN differ.
    """
    if found.shape != expected.shape or found.is_floating_point() != expected.is_floating_point():
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(found, expected.to(found.dtype)) else float("inf")
    same = (found == expected) | (found.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    largest = expected[expected.isfinite()].abs().max() if bool(expected.isfinite().any()) else expected.new_ones(())
    apart = (found[~same].double() - expected[~same].double()).abs().max()
    if apart <= noise:
        return 0.0
    return float("inf") if bool(apart.isnan()) else float(apart / (largest.double() or 1.0))


@dataclasses.dataclass
class _Tap:
    """What a converted layer got: signs, +-1 in rows of channels, or floats as they are."""

    values: Tensor
    are_signs: bool


def _rows(x: Tensor, channel_dim: int) -> Tensor:
    """An activation as (positions, channels)."""
    return x.movedim(channel_dim, -1).reshape(-1, x.shape[channel_dim])


def _record(converted: nn.Module, taps: dict[str, list[_Tap]]) -> list:
    """Write down what every converted layer gets."""

    def hook(name: str):
        def record(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            taps[name].append(_tap(layer, args[0] if args else kwargs["input"]))

        return record

    layers = [(name, m) for name, m in converted.named_modules() if isinstance(m, (PackedLayer, QuantizedLayer))]
    return [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers]


def _tap(layer: nn.Module, x: Any) -> _Tap:
    if not isinstance(layer, PackedLayer) or layer.window_scale:
        return _Tap(x.clone(), False)
    channels = layer.geometry.channels
    if isinstance(x, Bits):
        signs = packing.unpack_activations(x.words.reshape(1, 1, -1, x.words.shape[-1]), channels)
        return _Tap(signs[0, :, 0].t(), True)
    values = _rows(x, -1 - layer.dims)
    threshold = values.new_zeros(channels) if layer.threshold is None else layer.threshold
    above = values >= threshold
    bits = above if layer.flip is None else torch.where(layer.flip, values <= threshold, above)
    return _Tap(torch.where(bits, 1.0, -1.0), True)


def _force(prepared: nn.Module, taps: Mapping[str, list[_Tap]], places: list[str]) -> list:
    """Hand every binary layer what its counterpart got; ``places`` collects where its own input says otherwise."""

    def hook(name: str):
        calls = iter(taps[name])

        def force(layer: QuantizedLayer, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            x, tap = args[0] if args else kwargs["input"], next(calls, None)
            if tap is None:
                places.append(f"{name!r} is called less often")
                return args, kwargs
            problem, own = _compare_signs(layer, x, tap) if tap.are_signs else _compare_floats(x, tap)
            if problem:
                places.append(f"the input of {name!r} {problem}")
            return ((own, *args[1:]), kwargs) if args else (args, {**kwargs, "input": own})

        return force

    layers = [(name, m) for name, m in prepared.named_modules() if isinstance(m, QuantizedLayer) and name in taps]
    return [layer.register_forward_pre_hook(hook(name), with_kwargs=True) for name, layer in layers]


def _compare_floats(x: Tensor, tap: _Tap) -> tuple[str, Tensor]:
    apart = relative_difference(tap.values, x)
    return ("" if apart <= TOLERANCE else f"differs by {apart:.2g} of its largest value"), tap.values


def _compare_signs(layer: QuantizedLayer, x: Tensor, tap: _Tap) -> tuple[str, Tensor]:
    """(what is wrong with the signs that the packed layer computed with, an input that has these signs)."""
    dim = layer.channel_dim
    threshold = x.new_zeros(x.shape[dim]) if layer.threshold is None else layer.threshold.detach()
    rows = _rows(x, dim)
    if tap.values.shape != rows.shape:
        return f"has {tuple(tap.values.shape)} signs instead of {tuple(rows.shape)}", x
    distance = rows - threshold
    moved = (distance >= 0) != (tap.values > 0)
    largest = rows[rows.isfinite()].abs().max() if rows.numel() else 0.0
    # A sign that lies so near to its threshold may have moved; NaN has the sign -1 in both.
    wrong = moved & ~(distance.abs() <= TOLERANCE * largest)
    problem = f"has {int(wrong.sum()):,} of {wrong.numel():,} signs that are others" if bool(wrong.any()) else ""
    # So far from the threshold that subtracting it again leaves the sign.
    own = threshold + tap.values * (1 + threshold.abs())
    shape = x.movedim(dim, -1).shape
    return problem, own.reshape(shape).movedim(-1, dim)
