"""Names of networks: ``<arch>``, ``<arch>_xnornet``, ``<arch>_<scheme>`` and ``timm/<name>``.

A network is registered with the layouts it has. A name that ends in a scheme stands for the layout that the
scheme prefers; whoever trains it applies the scheme. This package builds float networks only and knows no
schemes: who does hands over their names and layouts, which are ``quantize.scheme.preferred_layouts()``.

Layouts: "float", the network as published; "binary", its inputs of binary layers have both signs; and
where a network has them, "bireal" (a shortcut round every convolution), "react" (the same with RPReLU)
and "weights" (for binary weights and float activations, where "binary" leaves the activations to the sign).
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType

from torch import nn

TIMM_PREFIX = "timm/"

FIRST_AND_LAST = ("first", "last")

# Layouts that have the name of the scheme they were made for.
_SCHEME_LAYOUTS = ("bireal", "react")

# Scheme name -> the layouts that it prefers to "binary", or scheme names alone.
Schemes = Mapping[str, Sequence[str]] | Iterable[str]


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a name stands for.

    Attributes:
        name: the name itself.
        arch: the registered network, or ``timm/<name>``.
        layout: see the module's docstring; a network may have one for all.
        scheme: the scheme the name asks for, or None.
        input_size: (channels, height, width) the network was made for; None where timm knows.
        keep_float: what stays float when the network becomes binary, as ``quantize.prepare`` takes it.
    """

    name: str
    arch: str
    layout: str
    scheme: str | None
    input_size: tuple[int, int, int] | None
    keep_float: tuple[str, ...] = FIRST_AND_LAST


@dataclasses.dataclass(frozen=True)
class _Entry:
    build: Callable[..., nn.Module]
    input_size: tuple[int, int, int]
    layouts: tuple[str, ...]
    keep_float: tuple[str, ...]

    def first_of(self, preferred: Sequence[str]) -> str:
        return next((layout for layout in preferred if layout in self.layouts), "binary")


_REGISTRY: dict[str, _Entry] = {}
_ALIASES: dict[str, str] = {}  # a published name -> the registered one


def register_model(
    name: str,
    input_size: tuple[int, int, int],
    extra_layouts: tuple[str, ...] = (),
    keep_float: tuple[str, ...] = FIRST_AND_LAST,
    aliases: tuple[str, ...] = (),
):
    """Decorator for ``build(num_classes, in_chans, layout, **options) -> nn.Module``.

    Args:
        name: of the network.
        input_size: (channels, height, width) it was made for.
        extra_layouts: those it has beside "float" and "binary".
        keep_float: see :class:`ModelSpec`.
        aliases: further names that it is published under; :func:`list_models` leaves them out.

    Raises ValueError when a name is taken.
    """

    def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for taken in {name, *aliases} & {*_REGISTRY, *_ALIASES}:
            raise ValueError(f"network name {taken!r} is taken; choose another")
        _ALIASES.update(dict.fromkeys(aliases, name))
        _REGISTRY[name] = _Entry(build, input_size, ("float", "binary", *extra_layouts), keep_float)
        return build

    return register


def list_models() -> list[str]:
    """The networks, each with ``_xnornet``, and those with a layout for one scheme (``resnet18_bireal``).

    Left out: the other ``<arch>_<scheme>`` and timm's (``timm/<name>``).
    """
    made_for = [(arch, name) for arch, entry in _REGISTRY.items() for name in _SCHEME_LAYOUTS if name in entry.layouts]
    special = [f"{arch}_{scheme}" for arch, scheme in made_for]
    return sorted(_REGISTRY) + sorted(f"{arch}_xnornet" for arch in _REGISTRY) + sorted(special)


def resolve(name: str, schemes: Schemes = ()) -> ModelSpec:
    """What ``name`` stands for.

    Args:
        name: see the module's docstring.
        schemes: those that may end a name beside xnornet, bireal and react, each with the layouts that it
            prefers to "binary".

    Raises ValueError for an unknown name, with close ones.
    """
    if name.startswith(TIMM_PREFIX):
        _timm_entrypoint(name)
        return ModelSpec(name, name, "float", None, None)
    arch = _ALIASES.get(name, name)
    if arch in _REGISTRY:
        entry = _REGISTRY[arch]
        return ModelSpec(name, arch, "float", None, entry.input_size, entry.keep_float)
    given = schemes if isinstance(schemes, Mapping) else dict.fromkeys(schemes, ())
    own = {layout: (layout,) for layout in _SCHEME_LAYOUTS}
    for suffix, preferred in {"xnornet": (), **own, **given}.items():
        base = name.removesuffix(f"_{suffix}")
        arch = _ALIASES.get(base, base)
        if base != name and arch in _REGISTRY:
            entry, scheme = _REGISTRY[arch], "xnor" if suffix == "xnornet" else suffix
            return ModelSpec(name, arch, entry.first_of(preferred), scheme, entry.input_size, entry.keep_float)
    more = "each also as <arch>_xnornet or <arch>_<scheme>; timm/<name> gives any timm backbone; "
    more += "models.register_model adds one of your own, and the guide 'adding' says how"
    raise ValueError(_unknown(name, list_models(), f"valid: {', '.join(sorted(_REGISTRY))}; {more}"))


def create_model(
    name: str, num_classes: int = 10, in_chans: int | None = None, schemes: Schemes = (), **options
) -> nn.Module:
    """A float network with fresh weights, in the layout that ``name`` stands for.

    Args:
        name: ``nin_gc``, ``nin_gc_xnornet`` (its layout for binary layers), ``timm/resnet18``, ...
        num_classes: outputs of the last layer.
        in_chans: channels of the input; the network's own by default.
        schemes: those that may end ``name``, see :func:`resolve`.
        options: further keyword arguments of the network (of ``timm.create_model`` for timm).

    Raises ValueError for an unknown name or option, or a size below 1.
    """
    spec = resolve(name, schemes)
    in_chans = (spec.input_size[0] if spec.input_size else 3) if in_chans is None else in_chans
    for what, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} is {value!r}; it must be a whole number of at least 1")
    if spec.arch.startswith(TIMM_PREFIX):
        backbone = spec.arch.removeprefix(TIMM_PREFIX)
        return _timm(name).create_model(backbone, num_classes=num_classes, in_chans=in_chans, **options)
    build = _REGISTRY[spec.arch].build
    valid = sorted(set(inspect.signature(build).parameters) - {"num_classes", "in_chans", "layout"})
    for option in options:
        if option not in valid:
            raise ValueError(f"network {spec.arch!r} has no option {option!r}; valid: {', '.join(valid) or 'none'}")
    return build(num_classes=num_classes, in_chans=in_chans, layout=spec.layout, **options)


def _timm(name: str) -> ModuleType:
    """timm. Raises ModuleNotFoundError, with what to install, where it is not."""
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        sentence = f"{name!r} needs timm, which is not installed: pip install 'xnorkit[train]'"
        raise ModuleNotFoundError(sentence, name="timm") from None
    return timm


@functools.cache
def _timm_entrypoint(name: str) -> None:
    timm = _timm(name)
    bare = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(bare):
        names = [TIMM_PREFIX + m for m in timm.list_models()]
        raise ValueError(_unknown(name, names, f"valid: {len(names)} names, see timm.list_models()"))


def _unknown(name: str, names: list[str], valid: str) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"unknown network {name!r}: {hint}{valid}"
