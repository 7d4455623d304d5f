"""What a run is made of: steps that can be carried out again, each in the memory that it had."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ..kernels.calls import Call


class NativeCall(NamedTuple):
    """A call of the library and the addresses of its input and its result."""

    call: Call
    x: int
    result: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One computation.

    Attributes:
        compute: carries it out again; a call of the library, or a function without arguments.
        touches: addresses of the memory that torch reads and writes in it.
        makes: of the memory that it fills; only of a step that always makes the same.
        holds: what has to live for it.
    """

    compute: NativeCall | Callable[[], Any]
    touches: frozenset[int] = frozenset()
    makes: frozenset[int] | None = None
    holds: tuple[Tensor, ...] = ()


def memory_of(x: Tensor) -> int:
    """The address of a tensor's storage."""
    return x.untyped_storage().data_ptr()
