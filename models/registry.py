"""Names of networks: ``<arch>``, ``<arch>_xnornet``, ``<arch>_<scheme>`` and ``timm/<name>``.

A network is registered with the layouts it has. A name that ends in a scheme stands for the layout
made for that scheme; whoever trains it applies the scheme. This package builds float networks only.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable

from torch import nn

TIMM_PREFIX = "timm/"

# Which layout a name ending in `_<suffix>` stands for, and the scheme that goes with it.
_SUFFIXES: dict[str, tuple[str, str]] = {
    "xnornet": ("binary", "xnor"),
    **{s: ("binary", s) for s in ("binaryconnect", "bnn", "bwn", "dorefa", "ternary", "xnor")},
}


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a name stands for.

    Attributes:
        name: the name itself.
        arch: the registered network, or ``timm/<name>``.
        layout: "float" or "binary" (batch norm before the sign); a network may have one for both.
        scheme: the scheme the name asks for, or None.
        input_size: (channels, height, width) the network was made for; None where timm knows.
    """

    name: str
    arch: str
    layout: str
    scheme: str | None
    input_size: tuple[int, int, int] | None


@dataclasses.dataclass(frozen=True)
class _Entry:
    build: Callable[..., nn.Module]
    input_size: tuple[int, int, int]


_REGISTRY: dict[str, _Entry] = {}


def register_model(name: str, input_size: tuple[int, int, int]):
    """Decorator for ``build(num_classes, in_chans, layout, **options) -> nn.Module``."""

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if name in _REGISTRY:
            raise ValueError(f"network name {name!r} is taken; choose another")
        _REGISTRY[name] = _Entry(build, input_size)
        return build

    return register


def list_models() -> list[str]:
    """All names that :func:`create_model` knows, timm's (``timm/<name>``) left out."""
    return sorted(_REGISTRY) + sorted(f"{arch}_xnornet" for arch in _REGISTRY)


def resolve(name: str, schemes: tuple[str, ...] = ()) -> ModelSpec:
    """What ``name`` stands for.

    Args:
        name: see the module's docstring.
        schemes: further scheme names that may end a name (those a user has registered).

    Raises ValueError for an unknown name, with close ones.
    """
    if name.startswith(TIMM_PREFIX):
        _timm_entrypoint(name)
        return ModelSpec(name, name, "float", None, None)
    if name in _REGISTRY:
        return ModelSpec(name, name, "float", None, _REGISTRY[name].input_size)
    suffixes = {**{s: ("binary", s) for s in schemes}, **_SUFFIXES}
    for suffix, (layout, scheme) in suffixes.items():
        arch = name.removesuffix(f"_{suffix}")
        if arch != name and arch in _REGISTRY:
            return ModelSpec(name, arch, layout, scheme, _REGISTRY[arch].input_size)
    raise ValueError(_unknown(name, list_models(), "timm/<name> gives any timm backbone"))


def create_model(name: str, num_classes: int = 10, in_chans: int | None = None, **options) -> nn.Module:
    """A float network with fresh weights, in the layout that ``name`` stands for.

    Args:
        name: ``nin_gc``, ``nin_gc_xnornet`` (its layout for binary layers), ``timm/resnet18``, ...
        num_classes: outputs of the last layer.
        in_chans: channels of the input; the network's own by default.
        options: further keyword arguments of the network (of ``timm.create_model`` for timm).

    Raises ValueError for an unknown name or option, or a size below 1.
    """
    spec = resolve(name)
    in_chans = (spec.input_size[0] if spec.input_size else 3) if in_chans is None else in_chans
    for what, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} is {value!r}; it must be a whole number of at least 1")
    if spec.arch.startswith(TIMM_PREFIX):
        import timm

        backbone = spec.arch.removeprefix(TIMM_PREFIX)
        return timm.create_model(backbone, num_classes=num_classes, in_chans=in_chans, **options)
    build = _REGISTRY[spec.arch].build
    valid = sorted(set(inspect.signature(build).parameters) - {"num_classes", "in_chans", "layout"})
    for option in options:
        if option not in valid:
            raise ValueError(f"network {spec.arch!r} has no option {option!r}; valid: {', '.join(valid) or 'none'}")
    return build(num_classes=num_classes, in_chans=in_chans, layout=spec.layout, **options)


@functools.cache
def _timm_entrypoint(name: str) -> None:
    import timm

    bare = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(bare):
        raise ValueError(_unknown(name, [TIMM_PREFIX + m for m in timm.list_models()], "see timm.list_models()"))


def _unknown(name: str, valid: list[str], more: str) -> str:
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    shown = ", ".join(valid) if len(valid) <= 40 else f"{len(valid)} names"
    return f"unknown network {name!r}: {hint}valid: {shown}; {more}"
