"""What a run computes, step by step: calls of the library and torch's operators, with the memory that they use.

Nothing of what a run allocates is given back while its tape lives: every step can be carried out again where it was, on
whatever its input's memory holds then.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..calling import tensors_in
from ..kernels import library
from ..kernels.calls import WrittenCalls, heard_by
from . import pointwise
from .memory import share_memory
from .steps import NativeCall, Step, memory_of

_ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_REFUSED = {
    torch.Tag.data_dependent_output: "a number that it computes decides what it does next",
    torch.Tag.dynamic_output_shape: "the size of what it computes depends on values",
}


class CannotCapture(ValueError):
    """A run that cannot be carried out again as it was."""


class Tape(TorchDispatchMode):
    """Writes down what is computed while it is entered, on ``inputs``.

    What is computed of nothing that depends on them is left out: it stays in memory as it was, unless a step writes
    into it later.
    """

    def __init__(self, inputs: Iterable[Tensor]):
        super().__init__()
        self._steps: list[Step] = []
        self._held: list[Tensor] = []
        self._depending: set[int] = set()  # addresses of memory whose content depends on the inputs
        self._inputs = [*inputs]
        for x in self._inputs:
            self._depend(x)

    def __enter__(self):
        self._hearing = heard_by(lambda *call: self._steps.append(Step(NativeCall(*call))))
        self._hearing.__enter__()
        return super().__enter__()

    def __exit__(self, *raised):
        super().__exit__(*raised)
        self._hearing.__exit__(*raised)

    @property
    def has_layers(self) -> bool:
        """Whether a layer has called the library."""
        calls = (step.compute.call for step in self._steps if isinstance(step.compute, NativeCall))
        return any(call.function != pointwise.FUNCTION for call in calls)

    def program(self, output: Iterable[Tensor]) -> list[Callable[[], Any]]:
        """What is to be called in order, to compute ``output``; calls of the library side by side are one.

        The memory of what the library alone touches is shared, and given up here.
        """
        steps, given_up = share_memory([*self._needed()], self._held, [*self._inputs, *output])
        self._held = [tensor for tensor in self._held if memory_of(tensor) not in given_up]
        self._steps = steps
        program: list[Callable[[], Any]] = []
        together: list[NativeCall] = []
        for step in steps:
            if isinstance(step.compute, NativeCall):
                together.append(step.compute)
                continue
            if together:
                program.append(WrittenCalls(together))
                together = []
            program.append(step.compute)
        return [*program, WrittenCalls(together)] if together else program

    def _needed(self) -> Iterator[Step]:
        for step in self._steps:
            if step.makes is None or step.makes & self._depending:
                yield step

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [*tensors_in((args, kwargs))]
        follows = any(map(self._depends, inputs))
        _refuse_what_differs(func, follows)
        result = _without_chance(func, args, kwargs)
        outputs = [*tensors_in(result)]
        self._held += outputs
        if func.overloadpacket.__name__ in _ALLOCATE:  # what fills it is a step of its own, or the library
            for y in outputs:
                self._depend(y)
        elif not func.is_view:
            writes = func._schema.is_mutable
            self._steps.append(self._step(func, args, kwargs, result, constant=not (follows or writes)))
            for y in (*outputs, *(inputs if writes else ())) if follows or writes else ():
                self._depend(y)
        return result

    def _step(self, func: Any, args: tuple, kwargs: dict, result: Any, constant: bool) -> Step:
        """What makes ``result`` anew, in its place."""
        if not constant and library.load() is not None:
            with heard_by(None):
                made = pointwise.as_call(func, args, kwargs, result)
            if made is not None:
                call = NativeCall(made.call, made.x.data_ptr(), made.result.data_ptr())
                return Step(call, holds=(made.operand,))
        results = [*tensors_in(result)]
        filled = frozenset(map(memory_of, results))
        touches = filled.union(map(memory_of, tensors_in((args, kwargs))))
        return Step(_again(func, args, kwargs, results), touches, filled if constant else None)

    def _depend(self, x: Tensor) -> None:
        self._depending.add(memory_of(x))

    def _depends(self, x: Tensor) -> bool:
        return memory_of(x) in self._depending


def _refuse_what_differs(func: Any, follows: bool) -> None:
    """Raise CannotCapture for an operator that other values send another way; ``follows``: it is given such."""
    for tag, reason in _REFUSED.items():
        if follows and tag in func.tags:
            raise CannotCapture(f"the run cannot be captured: {reason} ({func})")


def _without_chance(func: Any, args: tuple, kwargs: dict) -> Any:
    """What an operator computes. Raises CannotCapture for one that draws random numbers; that it may tells its tag."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return func(*args, **kwargs)
    before = torch.get_rng_state()
    result = func(*args, **kwargs)
    if kwargs.get("generator") is not None or not torch.equal(before, torch.get_rng_state()):
        raise CannotCapture(f"the run cannot be captured: it draws random numbers ({func})")
    return result


def _again(func: Any, args: tuple, kwargs: dict, results: list[Tensor]) -> Callable[[], Any]:
    """What carries an operator out again, into the same memory."""
    if func._schema.is_mutable:
        return lambda: func(*args, **kwargs)
    writing = _writing_form(func)
    if writing is not None:
        operator, names = writing
        targets = dict(zip(names, results, strict=True))
        return lambda: operator(*args, **kwargs, **targets)

    def compute_and_copy() -> None:
        for target, value in zip(results, tensors_in(func(*args, **kwargs)), strict=True):
            target.copy_(value)

    return compute_and_copy


def _writing_form(func: Any) -> tuple[Any, list[str]] | None:
    """The overload of an operator that writes its results where it is told, and the names of these arguments."""
    wanted = [(argument.name, str(argument.type)) for argument in func._schema.arguments]
    for name in func.overloadpacket.overloads():
        overload = getattr(func.overloadpacket, name)
        arguments = overload._schema.arguments
        outs = [argument for argument in arguments if argument.is_out]
        if outs and [(a.name, str(a.type)) for a in arguments if not a.is_out] == wanted:
            return overload, [argument.name for argument in outs]
    return None
