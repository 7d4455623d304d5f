"""Layers by their part in the network: what ``keep_float`` calls "first", "last", "tiny" and "downsample"."""

from collections.abc import Collection, Iterable, Mapping

from torch import nn

from ..binary.adapters import own_weight
from ..binary.layers import out_channels
from ..scheme import Scheme
from .observe import Observation
from .selection import Choice, Pattern, matching_names

Layers = Mapping[str, nn.Module]

# Below this, the float scale of a filter takes more room than its signs, and an output is one of fewer
# than 33 values; a depthwise 3x3 convolution has a fan-in of 9.
MIN_FAN_IN = 32


def fan_in(layer: nn.Module) -> int:
    """How many weights one output is the sum over."""
    return own_weight(layer).numel() // out_channels(layer)


def tiny(layer: nn.Module, seen: Observation | None, min_fan_in: int) -> str | None:
    """Why a layer loses much and saves little by being binary, or None.

    It is under ``min_fan_in``, or (where the model has run) it gates channels as squeeze-and-excitation
    does: computed from a tensor, one value a channel, the tensor is multiplied by its output.
    """
    if fan_in(layer) < min_fan_in:
        return f"fan-in {fan_in(layer)}, less than {min_fan_in}"
    return "gates channels" if seen and layer in seen.gates else None


def _first(layers: Layers, seen: Observation | None) -> dict[str, str]:
    names = [name for name, layer in layers.items() if layer in seen.first] if seen else list(layers)[:1]
    return dict.fromkeys(names, "first layer")


def _last(layers: Layers, seen: Observation | None) -> dict[str, str]:
    names = [name for name, layer in layers.items() if layer in seen.last] if seen else list(layers)[-1:]
    return dict.fromkeys(names, "last layer")


def _downsample(layers: Layers, seen: Observation | None) -> dict[str, str]:
    if seen is None:
        raise ValueError("keep_float 'downsample' needs an example_input: shortcuts show when the model runs")
    return {name: "downsample: alone on a shortcut" for name, layer in layers.items() if layer in seen.projections}


def adapters(model: nn.Module, layers: Layers) -> dict[str, str]:
    """The layers that are trained beside a frozen one instead of it, such as LoRA's two, each with the reason.

    The package ``peft`` says in ``adapter_layer_names`` of a wrapper where they are; elsewhere names tell.
    """
    places = [
        f"{name}.{part}.".lstrip(".")
        for name, module in model.named_modules()
        for part in getattr(module, "adapter_layer_names", ())
    ]

    def is_adapter(name: str) -> bool:
        return f"{name}.".startswith(tuple(places)) or any(part.startswith("lora_") for part in name.split("."))

    return dict.fromkeys(filter(is_adapter, layers), "adapter: small, and trained beside a layer in float")


def kept_float(
    keep_float: Iterable[Pattern],
    layers: Layers,
    seen: Observation | None,
    min_fan_in: int,
    without_role: Collection[str] = (),
) -> dict[str, Choice]:
    """The layers that ``keep_float`` of :func:`prepare` keeps, each with the reason.

    Args:
        without_role: names of layers that have no part in the network.

    Raises ValueError for a pattern that matches no layer; a role may have none.
    """

    def _tiny(layers: Layers, seen: Observation | None) -> dict[str, str]:
        found = {name: tiny(layer, seen, min_fan_in) for name, layer in layers.items()}
        return {name: f"tiny: {reason}" for name, reason in found.items() if reason}

    roles = {"first": _first, "last": _last, "tiny": _tiny, "downsample": _downsample}
    in_network = {name: layer for name, layer in layers.items() if name not in without_role}
    kept: dict[str, Choice] = {}
    for entry in keep_float:
        if isinstance(entry, str) and entry in roles:
            reasons = roles[entry](in_network, seen)
        else:
            reasons = dict.fromkeys(matching_names(entry, layers, "keep_float", also=roles), "keep_float")
        for name, reason in reasons.items():
            kept.setdefault(name, (None, reason))
    return kept


def check_agreement(keep_float: Iterable[Pattern], overrides: Mapping[Pattern, str | Scheme | None]) -> None:
    """Raise ValueError where both name one layer, and the override makes it binary."""
    for entry in keep_float:
        if overrides.get(entry) is not None:
            shown = entry.__name__ if isinstance(entry, type) else entry
            raise ValueError(
                f"keep_float has {shown!r} and overrides makes it {str(overrides[entry])!r}; name it in one of the two"
            )
