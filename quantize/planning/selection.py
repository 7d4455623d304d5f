"""Which layers a name, a regular expression or a layer type stands for."""

import re
from collections.abc import Iterable, Mapping

from torch import nn

from ..scheme import Scheme, get_scheme
from ..words import did_you_mean

Pattern = str | type[nn.Module]
Choice = tuple[Scheme | None, str]  # the scheme (None: float) and the reason


def matching_names(
    pattern: Pattern, layers: Mapping[str, nn.Module], argument: str, also: Iterable[str] = ()
) -> list[str]:
    """The layers that ``pattern`` stands for: an exact name, else a regular expression that matches
    the whole name; or a layer class.

    Raises ValueError, naming ``argument``, when there is none; ``also`` are further words that it takes.
    """
    if isinstance(pattern, type):
        names = [name for name, layer in layers.items() if isinstance(layer, pattern)]
        if not names:
            types = {type(layer).__name__ for layer in layers.values()}
            raise ValueError(f"{argument}: no layer is a {pattern.__name__}; {did_you_mean(pattern.__name__, types)}")
        return names
    if not isinstance(pattern, str):
        raise TypeError(f"{argument}: {pattern!r} is neither a layer name, a regular expression nor a layer class")
    if pattern in layers:
        return [pattern]
    try:
        names = [name for name in layers if re.fullmatch(pattern, name)]
    except re.error as error:
        raise ValueError(f"{argument}: {pattern!r} is neither a layer name nor a regular expression: {error}") from None
    if not names:
        raise ValueError(f"{argument}: no layer matches {pattern!r}; {_hint(pattern, [*also, *layers])}")
    return names


def _hint(pattern: str, layers: Iterable[str]) -> str:
    if any(name.startswith(pattern + ".") for name in layers):
        return f"it is a container; write {re.escape(pattern) + '[.].*'!r} for the layers in it"
    return did_you_mean(pattern, layers)


class Overrides:
    """``overrides=`` of :func:`quantize.prepare`: exact name, then regular expression, then type.

    Among regular expressions, and among types, the first that matches counts.
    """

    def __init__(self, overrides: Mapping[Pattern, str | Scheme | None], layers: Mapping[str, nn.Module]):
        self._exact: dict[str, Choice] = {}
        self._patterns: dict[str, Choice] = {}
        self._types: dict[str, Choice] = {}
        for pattern, scheme in overrides.items():
            shown = pattern.__name__ if isinstance(pattern, type) else pattern
            choice = (None if scheme is None else get_scheme(scheme), f"override {shown!r}")
            names = matching_names(pattern, layers, "overrides")
            if isinstance(pattern, type):
                level = self._types
            else:
                level = self._exact if pattern in layers else self._patterns
            for name in names:
                level.setdefault(name, choice)

    def exact(self, name: str) -> Choice | None:
        """What the layer's own name asks for."""
        return self._exact.get(name)

    def by_pattern(self, name: str) -> Choice | None:
        """What a regular expression or a type asks for."""
        return self._patterns.get(name) or self._types.get(name)

    def names(self, name: str) -> bool:
        """Whether anything asks for the layer, be it float."""
        return (self.exact(name) or self.by_pattern(name)) is not None
