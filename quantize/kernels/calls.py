"""A call of the library, all but two addresses: carried out at once, or written down and carried out with others.

Every call on which values of a network depend goes through a :class:`Call`, so that whoever listens has them all.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import library

_Argument = Any  # a whole number, an address or None, a float, or what ctypes.byref returned


class Call:
    """A function of the library with its arguments, but where the input lies, where the result goes, and the threads.

    Args:
        function: its name.
        before, after: the arguments in front of the input's address and behind it.
        output: of the address of the result what the function takes in its place, a structure that holds it.
    """

    __slots__ = ("after", "before", "function", "output", "run")

    def __init__(
        self,
        function: str,
        before: tuple[_Argument, ...],
        after: tuple[_Argument, ...] = (),
        output: Callable[[int], ctypes.Structure] | None = None,
    ):
        self.function, self.before, self.after, self.output = function, before, after, output
        self.run = getattr(library.loaded(), function)

    def __call__(self, x: int, result: int) -> None:
        """Raises :class:`library.KernelError` where the library refuses."""
        target = result if self.output is None else ctypes.byref(self.output(result))
        library.check(self.run(*self.before, x, *self.after, target, library.parallel()))
        listener = _thread.listener
        if listener is not None:
            listener(self, x, result)


class WrittenCalls:
    """Calls as the library takes them together: ``(call, address of its input, address of its result)``.

    What their arguments point to is held; what lies at the addresses has to stay there.
    """

    def __init__(self, calls: Sequence[tuple[Call, int, int]]):
        self._held: list[Any] = []
        self._calls = (library.WrittenCall * len(calls))(*(self._written(*call) for call in calls))
        self._run = library.loaded().xk_run

    def __len__(self) -> int:
        return len(self._calls)

    def __call__(self) -> None:
        """Carry them out. Raises :class:`library.KernelError` where the library refuses one."""
        library.check(self._run(self._calls, len(self._calls), library.parallel()))

    def _written(self, call: Call, x: int, result: int) -> library.WrittenCall:
        target = result if call.output is None else ctypes.byref(call.output(result))
        self._held.append((call, target))
        arguments = [_written_argument(argument) for argument in (*call.before, x, *call.after, target)]
        return library.WrittenCall(library.FUNCTIONS.index(call.function), (library.Argument * 8)(*arguments))


def _written_argument(argument: _Argument) -> library.Argument:
    if isinstance(argument, float):
        return library.Argument(number=argument)
    if argument is None or isinstance(argument, int):
        return library.Argument(whole=argument or 0)
    return library.Argument(pointer=ctypes.addressof(argument._obj))  # of ctypes.byref


class _Thread(threading.local):
    listener: Callable[[Call, int, int], None] | None = None


_thread = _Thread()


@contextlib.contextmanager
def heard_by(listener: Callable[[Call, int, int], None] | None) -> Iterator[None]:
    """Inside, ``listener``, or nobody, is told of each call of this thread and its addresses, after it was made."""
    outer, _thread.listener = _thread.listener, listener
    try:
        yield
    finally:
        _thread.listener = outer
