"""Binary layers: ``nn.Conv*d``, ``nn.ConvTranspose*d`` and ``nn.Linear`` with a scheme inside.

A binary layer *is* its float layer with a scheme and, where its inputs are signs, a threshold: the
same ``weight`` and ``bias`` keys, options and hooks. :func:`binarize` and :func:`unbinarize` change
the class of a layer in place, so that shared modules stay shared and parameters keep their identity.
"""

from typing import Any

from torch import nn

from ..scheme import Scheme
from .adapters import PLAIN, LayerAdapter, find_adapter
from .binary_layer import STATE, BinaryLayer, computes_its_own_way


class BinaryConv1d(BinaryLayer, nn.Conv1d):
    """``nn.Conv1d`` with a scheme: (N, C, L) -> (N, C', L')."""

    float_class = nn.Conv1d


class BinaryConv2d(BinaryLayer, nn.Conv2d):
    """``nn.Conv2d`` with a scheme: (N, C, H, W) -> (N, C', H', W')."""

    float_class = nn.Conv2d


class BinaryConv3d(BinaryLayer, nn.Conv3d):
    """``nn.Conv3d`` with a scheme: (N, C, D, H, W) -> (N, C', D', H', W')."""

    float_class = nn.Conv3d


class BinaryConvTranspose1d(BinaryLayer, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with a scheme."""

    float_class = nn.ConvTranspose1d


class BinaryConvTranspose2d(BinaryLayer, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with a scheme."""

    float_class = nn.ConvTranspose2d


class BinaryConvTranspose3d(BinaryLayer, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with a scheme."""

    float_class = nn.ConvTranspose3d


class BinaryLinear(BinaryLayer, nn.Linear):  # type: ignore[misc]  # nn.Linear's type says that it has a bias
    """``nn.Linear`` with a scheme: (*, in_features) -> (*, out_features)."""

    float_class = nn.Linear


_BINARY_CLASSES = (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
    BinaryLinear,
)
FLOAT_CLASSES: dict[type[BinaryLayer], type[nn.Module]] = {binary: binary.float_class for binary in _BINARY_CLASSES}


# Full name of a class -> its binary counterpart, and its adapter: layers that are no subclass of torch's, or keep
# their weight in a form of their own.
_FORMS: dict[str, tuple[type[BinaryLayer], LayerAdapter]] = {}


def register_form(name: str, binary: type[BinaryLayer], adapter: LayerAdapter = PLAIN) -> None:
    """Make ``binary`` the counterpart of the float class ``name``, "package.module.Class"."""
    _FORMS[name] = (binary, adapter)


def _form(kind: type[nn.Module]) -> tuple[type[nn.Module], str] | None:
    """The class with a form of its own that ``kind`` is or is derived from, and its name."""
    named = ((base, f"{base.__module__}.{base.__qualname__}") for base in kind.__mro__)
    return next(((base, name) for base, name in named if name in _FORMS), None)


def out_channels(layer: nn.Module) -> int:
    """How many filters a float layer has."""
    return next(getattr(layer, name) for name in ("out_channels", "out_features", "nf") if hasattr(layer, name))


def counterpart(kind: type[nn.Module]) -> type[BinaryLayer] | None:
    """The binary class for a class of float layers, or None where there is none."""
    form = _form(kind)
    if form is not None:
        return _FORMS[form[1]][0]
    return next((binary for binary, floating in FLOAT_CLASSES.items() if issubclass(kind, floating)), None)


def binary_class(layer: nn.Module) -> type[BinaryLayer] | None:
    """The binary counterpart of a float layer's class, or None where there is none."""
    return counterpart(type(layer))


def plain_class(layer: BinaryLayer) -> type[BinaryLayer] | None:
    """The class of this module that computes what ``layer`` does; None: it, or its class, does so in its own way."""
    return None if computes_its_own_way(layer) else next(kind for kind in _BINARY_CLASSES if isinstance(layer, kind))


def layer_adapter(layer: nn.Module) -> LayerAdapter | None:
    """What the binary counterpart of a float layer must know about its forward; None: it is of an unknown kind."""
    form, kind = _form(type(layer)), binary_class(layer)
    if form is not None:
        return _FORMS[form[1]][1] if find_adapter(layer, form[0]) is PLAIN else None
    return None if kind is None else find_adapter(layer, FLOAT_CLASSES[kind])


def binarize(layer: nn.Module, scheme: Scheme, output_size: tuple[int, ...] | None = None) -> BinaryLayer:
    """Turn a float layer into its binary counterpart, in place; returns the same object."""
    float_class, kind, adapter = type(layer), binary_class(layer), layer_adapter(layer)
    if kind is None or adapter is None:
        raise ValueError(f"{float_class.__name__} has no binary form; quantize.plan(model) says which layers have one")
    changed: Any = layer
    changed.__class__ = kind
    changed.float_class = float_class
    changed.attach(scheme, adapter, output_size)
    return changed


def unbinarize(layer: BinaryLayer) -> nn.Module:
    """Undo :func:`binarize`, in place: the float layer with the current latent weights."""
    added = {*layer._parameters, *layer._buffers} - layer.float_keys
    changed: Any = layer
    changed.__class__ = layer.float_class
    for name in added | {name for name in STATE if hasattr(changed, name)}:
        delattr(changed, name)
    return changed
