"""Whether a value has the structure that a type annotation says: for what comes from outside, such as a file."""

import types
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict


def mismatch(value: Any, kind: Any) -> str | None:
    """What is wrong with ``value`` first, such as " is 3 instead of str"; None where it is a ``kind``.

    Args:
        kind: a class, None, a union, ``dict[K, V]``, ``list[T]``, ``tuple[T, ...]``, ``tuple[A, B]`` or a TypedDict,
            of which further keys are let be. A list may be a tuple and a tuple a list, a float may be an int.
    """
    return next(_mismatches(value, kind, ""), None)


def _mismatches(value: Any, kind: Any, where: str) -> Iterator[str]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return
    if isinstance(kind, types.UnionType):
        if all(mismatch(value, one) for one in inner):
            yield from _mismatches(value, inner[0], where)  # which part is wrong says more than that no kind fits
    elif is_typeddict(kind):
        yield from _in_typed_dict(value, kind, where)
    elif origin is dict:
        yield from _in_dict(value, inner, where)
    elif origin in (list, tuple):
        yield from _in_sequence(value, inner, kind, where)
    elif not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) and kind is not bool:
        yield _say(value, kind, where)


def _in_typed_dict(value: Any, kind: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _say(value, dict, where)
        return
    for key, inner in get_type_hints(kind).items():
        if key in value:
            yield from _mismatches(value[key], inner, f"{where}[{key!r}]")
        elif key in kind.__required_keys__:
            yield f"{where} has no {key!r}"


def _in_dict(value: Any, inner: tuple, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _say(value, dict, where)
        return
    for key, item in value.items():
        if mismatch(key, inner[0]):
            yield f"{where} has a key {_short(key)}, which is no {inner[0].__name__}"
        yield from _mismatches(item, inner[1], f"{where}[{_short(key)}]")


def _in_sequence(value: Any, inner: tuple, kind: Any, where: str) -> Iterator[str]:
    if not isinstance(value, (list, tuple)):
        yield _say(value, kind, where)
        return
    kinds = inner[:1] * len(value) if inner[1:] in ((), (...,)) else inner
    if len(kinds) != len(value):
        yield f"{where} has {len(value)} values instead of {len(kinds)}"
        return
    for i, (item, one) in enumerate(zip(value, kinds, strict=True)):
        yield from _mismatches(item, one, f"{where}[{i}]")


def _say(value: Any, kind: Any, where: str) -> str:
    name = kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    return f"{where} is {_short(value)} instead of {name}"


def _short(value: Any) -> str:
    """A value in a few words of one line."""
    text = repr(value) if isinstance(value, (int, float, str, bytes, type(None))) else ""
    return text if text and len(text) <= 40 else f"of type {type(value).__name__}"
