"""What happens inside one binary layer, and the registry that makes a scheme known by name.

A scheme is a frozen dataclass: its fields are its options, its methods map a filter bank and an
input to their low-bit forms. It holds no tensors, so one instance serves every layer.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from .ste import ste_sign
from .words import did_you_mean

FLOAT_BITS = 32


class Layer(Protocol):
    """What a scheme may use of the layer that it works in.

    Attributes:
        training: the layer's mode.
        progress: of training, a tensor in 0 to 1, where the scheme is annealed.
        channel_dim: of the input, counted from the end: -1 of a linear layer, -3 of a 2-D convolution.
    """

    training: bool
    progress: Tensor

    @property
    def channel_dim(self) -> int: ...

    def window_mean(self, magnitude: Tensor, *args) -> Tensor:
        """The mean over a group's channels and the kernel window, output-shaped."""
        ...


class QuantizedWeight(NamedTuple):
    """A low-bit filter bank: the layer computes with ``values * scale``.

    Attributes:
        values: same shape as the filters; +-1 for 1-bit schemes, {-1, 0, 1} for ternary, the
            dequantized levels for more bits.
        scale: broadcastable to the filters, constant inside a filter, or None for 1.
    """

    values: Tensor
    scale: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Scheme:
    """Base class of all schemes. Subclass it, decorate it with :func:`register_scheme`.

    Class attributes:
        name: the key in the registry, set by the decorator.
        signed_input: the input becomes ``sign(input - threshold)``: the layer may own a threshold.
        surrogate: the derivative that stands for that of this sign, a function of :mod:`quantize.ste`; or None, where
            :meth:`input` has a gradient of its own.
        learned_threshold: every layer owns one, whatever the signs of its input.
        annealed: the gradient depends on the progress of training, ``layer.progress``, which
            :func:`set_progress` moves from 0 to 1. The forward pass must not.
        clips_weights: training keeps latent weights in [-1, 1]: one beyond gets no gradient and could not come back.
        layouts: of networks in models/ that suit the scheme better than the layout "binary", the best first.
    """

    name: ClassVar[str] = ""
    signed_input: ClassVar[bool] = False
    surrogate: ClassVar["staticmethod[[Tensor], Tensor] | None"] = None
    learned_threshold: ClassVar[bool] = False
    annealed: ClassVar[bool] = False
    clips_weights: ClassVar[bool] = False
    layouts: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """A class that replaces a method does not inherit what was said of the replaced one."""
        super().__init_subclass__()
        for method, said in (("weight", "scaled_weight"), ("output_scale", "scales_output")):
            owner, of_said = (next(c for c in cls.__mro__ if name in vars(c)) for name in (method, said))
            if cls.__mro__.index(owner) < cls.__mro__.index(of_said):
                setattr(cls, said, vars(Scheme)[said])

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ValueError(
                    f"option {field.name!r} of scheme {self.name!r} is {value!r}; it must be of type {kind.__name__}"
                )

    @property
    def weight_bits(self) -> int:
        """Bits that a stored weight needs, without its scale; FLOAT_BITS: float."""
        return 1

    @property
    def input_bits(self) -> int | None:
        """Bits of the quantized input: FLOAT_BITS where it stays float, 1 where it becomes signs, k where it becomes
        ``round((2^k - 1) clamp(x, 0, 1)) / (2^k - 1)``. None: another form, which some export formats refuse.
        """
        if self.signed_input:
            return 1
        return FLOAT_BITS if type(self).input is Scheme.input else None

    @property
    def random_in_training(self) -> bool:
        """Whether training draws weights, so that the statistics of its activations are not those of evaluation."""
        return False

    @property
    def window_scale(self) -> bool:
        """Whether :meth:`output_scale` is ``layer.window_mean(|x|)``, which packed layers compute themselves."""
        return False

    @property
    def scales_output(self) -> bool:
        """Whether :meth:`output_scale` returns anything, ever."""
        return type(self).output_scale is not Scheme.output_scale

    def check_output_size(self, output_size: tuple[int, ...] | None) -> None:
        """Raise ValueError where :meth:`attach` cannot do with this ``output_size``; a dry run asks this alone."""

    def attach(self, layer: Any, output_size: tuple[int, ...] | None) -> None:
        """Register what the scheme learns on ``layer``, a BinaryLayer whose weight is there already.

        ``output_size`` is the spatial size of the layer's output on the example input, where known.
        """

    def weight(self, filters: Tensor, layer: Layer) -> QuantizedWeight:
        """Quantize ``filters``, shape (out_channels, in_channels / groups, *kernel).

        A linear layer's filters are (out_features, in_features). ``layer`` is the module that owns
        them; its ``training`` flag, ``progress`` and own parameters may be read.
        """
        raise NotImplementedError

    def scaled_weight(self, filters: Tensor, layer: Layer) -> Tensor:
        """``values * scale`` of :meth:`weight`, which training computes with; a subclass may have a faster form."""
        values, scale = self.weight(filters, layer)
        return values if scale is None else values * scale

    def latent_weight(self, values: Tensor, scale: Tensor) -> Tensor:
        """Filters that :meth:`weight` quantizes to ``values``, which are +-1, and ``scale``, (out, 1, ...).

        The weights that come to a network that is trained on from its bits alone. ``values * scale`` is right where
        the scale is the mean size of a filter's weights, or there is none.
        """
        return values * scale

    def input(self, x: Tensor, layer: Layer) -> Tensor:
        """Quantize the layer's input, same shape; the default is its sign where there is a surrogate, else float."""
        surrogate = type(self).surrogate
        return x if surrogate is None else ste_sign(x, surrogate)

    def output_scale(self, x: Tensor, layer: Layer, *args) -> Tensor | None:
        """What the output is multiplied by beside the weight's scale (K of XNOR-Net), or None.

        ``x`` is the float input less the threshold, ``args`` the further arguments of the layer's call.
        """
        return None

    def __str__(self) -> str:
        """The command-line form, ``name:option=value,...`` with the options off their defaults."""
        changed = [
            f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
        ]
        return self.name + (":" + ",".join(changed) if changed else "")


_REGISTRY: dict[str, type[Scheme]] = {}


def register_scheme(name: str) -> Callable[[type[Scheme]], type[Scheme]]:
    """Class decorator: make a :class:`Scheme` dataclass known as ``name``.

    Raises ValueError when the name is taken by another class, or is not an identifier in lower case.
    """
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"scheme name {name!r} is not a lower-case identifier such as 'my_scheme'")

    def register(cls: type[Scheme]) -> type[Scheme]:
        taken = _REGISTRY.get(name)
        # A module that is reloaded (notebooks) registers the same class again.
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"scheme name {name!r} is taken by {taken.__module__}.{taken.__name__}; choose another")
        cls.name = name
        _REGISTRY[name] = cls
        return cls

    return register


def list_schemes() -> list[str]:
    """The registered scheme names, sorted."""
    return sorted(_REGISTRY)


def preferred_layouts() -> dict[str, tuple[str, ...]]:
    """Scheme name -> the layouts of networks that it prefers, which ``models.resolve`` takes as ``schemes``."""
    return {name: scheme.layouts for name, scheme in _REGISTRY.items()}


def get_scheme(scheme: str | Scheme) -> Scheme:
    """A configured scheme from an instance, a name, or ``"name:option=value,..."``.

    Raises ValueError for an unknown name, option or value, TypeError for another type.
    """
    if isinstance(scheme, Scheme):
        if _REGISTRY.get(scheme.name) is not type(scheme):
            raise ValueError(f"scheme class {type(scheme).__name__} has no name; decorate it with @register_scheme")
        return scheme
    if isinstance(scheme, type) and issubclass(scheme, Scheme):
        return scheme()
    if not isinstance(scheme, str):
        raise TypeError(f"scheme must be a name or a Scheme instance, got {type(scheme).__name__}: {scheme!r}")
    name, _, options = scheme.partition(":")
    if name not in _REGISTRY:
        own = "; quantize.register_scheme adds one of your own, and the guide 'adding' says how"
        raise ValueError(f"unknown scheme {name!r}: {did_you_mean(name, _REGISTRY)}{own}")
    cls = _REGISTRY[name]
    return cls(**_parse_options(cls, options))


def _parse_options(cls: type[Scheme], text: str) -> dict[str, object]:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    parsed: dict[str, object] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in fields:
            raise ValueError(f"scheme {cls.name!r} has no option {key!r}: {did_you_mean(key, fields)}")
        if not equals:
            raise ValueError(f"option {key!r} of scheme {cls.name!r} has no value; write {key}=VALUE")
        parsed[key] = _parse_value(cls, key, type(fields[key].default), value)
    return parsed


_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _parse_value(cls: type[Scheme], key: str, kind: type, value: str) -> object:
    try:
        return _BOOLS[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        expected = "true or false" if kind is bool else f"of type {kind.__name__}"
        raise ValueError(f"option {key!r} of scheme {cls.name!r} is {value!r}; it must be {expected}") from None
