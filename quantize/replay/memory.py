"""Memory for what the library alone touches: tensors that are not needed at the same time share it.

A tape holds all that a run allocates. Of a network that is as long as a ResNet that is more than the caches hold, where
the run itself gave each tensor's memory to a later one.
"""

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..kernels.calls import Call
from . import pointwise
from .steps import NativeCall, Step, memory_of


@dataclasses.dataclass
class _Use:
    """The steps, by number, between which a piece of memory is needed, and whether the first of them fills it."""

    first: int
    last: int
    is_filled: bool


@dataclasses.dataclass
class _Block:
    """Memory that several pieces have one after the other, the last of them until step ``busy``."""

    size: int
    busy: int


class _Storages:
    """Where addresses lie: in which of the storages of some tensors, by its own address."""

    def __init__(self, tensors: Iterable[Tensor]):
        self.sizes = {memory_of(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
        self._starts = sorted(self.sizes)

    def around(self, address: int) -> int | None:
        i = bisect.bisect_right(self._starts, address) - 1
        start = self._starts[i] if i >= 0 else 0
        return start if i >= 0 and address < start + self.sizes[start] else None


def share_memory(
    steps: Sequence[Step], tensors: Iterable[Tensor], kept: Iterable[Tensor]
) -> tuple[list[Step], set[int]]:
    """(``steps`` on memory that is shared, the addresses of storages that are not needed any more).

    Of ``tensors`` those are given up that calls of the library alone write and then read; what has the memory of
    ``kept`` stays, and what torch touches.
    """
    storages = _Storages(tensors)
    uses = _uses(steps, storages)
    for start in {*map(memory_of, kept), *(start for step in steps for start in step.touches)}:
        uses.pop(start, None)
    places = _places({start: use for start, use in uses.items() if use.is_filled}, storages.sizes)

    def moved(address: int) -> int:
        start = storages.around(address)
        return places[start].data_ptr() + address - start if start in places else address

    def relocated(step: Step) -> Step:
        if not isinstance(step.compute, NativeCall):
            return step
        holds = [tensor for tensor in step.holds if memory_of(tensor) not in places]
        return dataclasses.replace(step, compute=_relocated(step.compute, moved), holds=(*holds, *places.values()))

    return [relocated(step) for step in steps], {*places}


def _uses(steps: Sequence[Step], storages: _Storages) -> dict[int, _Use]:
    """Storage -> its use by calls of the library."""
    uses: dict[int, _Use] = {}
    for number, step in enumerate(steps):
        if not isinstance(step.compute, NativeCall):
            continue
        reads, writes = _addresses(step.compute)
        for address, is_written in (*((read, False) for read in reads), (writes, True)):
            start = storages.around(address)
            if start is not None:
                uses.setdefault(start, _Use(number, number, is_written)).last = number
    return uses


def _addresses(call: NativeCall) -> tuple[list[int], int]:
    """What it reads that a run computes, and what it writes."""
    operand = [call.call.after[0]] if call.call.function == pointwise.FUNCTION else []
    return [call.x, *operand], call.result


def _relocated(native: NativeCall, moved: Callable[[int], int]) -> NativeCall:
    call = native.call
    if call.function == pointwise.FUNCTION:
        call = Call(call.function, call.before, (moved(call.after[0]),))
    return NativeCall(call, moved(native.x), moved(native.result))


def _places(uses: Mapping[int, _Use], sizes: Mapping[int, int]) -> dict[int, Tensor]:
    """Storage -> memory that no other has while it is used: of those that are free the one of the nearest size."""
    blocks: list[_Block] = []
    chosen: dict[int, _Block] = {}
    for start, use in sorted(uses.items(), key=lambda item: item[1].first):
        size = sizes[start]
        free = [block for block in blocks if block.busy < use.first]
        block = min(free, key=lambda block: abs(block.size - size), default=None)
        if block is None:
            block = _Block(size, use.last)
            blocks.append(block)
        block.size, block.busy = max(block.size, size), use.last
        chosen[start] = block
    memory = {id(block): torch.empty(block.size, dtype=torch.uint8) for block in blocks}
    return {start: memory[id(block)] for start, block in chosen.items()}
