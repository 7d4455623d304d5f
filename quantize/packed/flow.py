"""Who hands which tensor to whom in one run of a network: the modules between which nothing else stands.

A run is watched from three sides. Hooks say which tensor goes into a module and which comes out. A torch function
mode sees every other use of a tensor, functional calls, operators and attributes such as ``shape`` alike, and a
dispatch mode those that Python does not see, inside scripted code. What is left are uses that compute nothing: a model
returns a tensor, in whatever object, or keeps it on itself or elsewhere. Such a tensor outlives the run, and that is
how it is recognized. Where the output of a module has one use, the input of another module, and does not outlive the
run, the two are neighbours and can be fused.
"""

import dataclasses
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..calling import run, tensors_in
from ..packing import Bits

Link = tuple[nn.Module, nn.Module]  # two neighbours, in the order in which they run


@dataclasses.dataclass
class Flow:
    """What one run showed of the watched modules.

    Attributes:
        calls: how often each ran.
        before: module -> the neighbour whose output is its input, and has no other use.
        after: the inverse.
        input_shape: module -> shape of its input.
    """

    calls: Counter[nn.Module] = dataclasses.field(default_factory=Counter)
    before: dict[nn.Module, nn.Module] = dataclasses.field(default_factory=dict)
    after: dict[nn.Module, nn.Module] = dataclasses.field(default_factory=dict)
    input_shape: dict[nn.Module, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def links(self) -> list[Link]:
        """The pairs of neighbours, in the order of the run."""
        return list(self.after.items())

    def moved(self, place: Mapping[nn.Module, nn.Module], links: Iterable[Link]) -> "Flow":
        """The same of a copy of the model, with no neighbours but those in ``links``.

        Args:
            place: module -> its copy.
        """
        pairs = [(place[first], place[second]) for first, second in links]
        return Flow(
            Counter({place[module]: count for module, count in self.calls.items()}),
            {second: first for first, second in pairs},
            dict(pairs),
            {place[module]: shape for module, shape in self.input_shape.items()},
        )


@torch.no_grad()
def trace_flow(model: nn.Module, example_input: Any, watched: Callable[[nn.Module], bool]) -> Flow:
    """Run ``model`` on ``example_input`` and report on its modules for which ``watched`` holds.

    A watched module counts as one step, whatever is in it. One with hooks of its own, or that is called with
    more than one tensor or returns more, is not watched; what hooks get, those of a container too, is used.

    Raises ValueError when the model does not run on ``example_input``.
    """
    modules = [module for module in model.modules() if watched(module) and not _has_hooks(module)]
    watch = _Watch()
    handles = [m.register_forward_pre_hook(watch.enter, with_kwargs=True) for m in modules]
    handles += [m.register_forward_hook(watch.leave, with_kwargs=True) for m in modules]
    hooked = [module for module in model.modules() if module not in {*modules} and _has_hooks(module)]
    handles += [m.register_forward_hook(lambda _, *seen: watch.use(seen), with_kwargs=True) for m in hooked]
    try:
        with watch, _Dispatched(watch):
            result = run(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    watch.use_survivors()
    del result  # held until here, so that what it holds in whatever form outlived the run
    return watch.flow()


def _has_hooks(module: nn.Module) -> bool:
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))


class _Value:
    """A tensor as a watched module returned it, and its uses since then; None is a use by anything else."""

    def __init__(self, tensor: Tensor, maker: nn.Module, when_gone: Callable[[Any], object]):
        self.tensor = weakref.ref(tensor, when_gone)
        self.maker = maker
        self.users: list[nn.Module | None] = []

    @property
    def user(self) -> nn.Module | None:
        """The module that is all that uses it, if there is one."""
        return self.users[0] if len(self.users) == 1 else None


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.inside: list[nn.Module] = []  # watched modules that are running
        self.current: dict[int, _Value] = {}  # id of a tensor -> its last value
        self.values: list[_Value] = []
        self.seen = Flow()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.inside:
            self.use((args, kwargs))
        return func(*args, **kwargs)

    def use(self, values: Any, user: nn.Module | None = None) -> None:
        """Write down that ``user`` has the tensors in ``values``."""
        for tensor in tensors_in(values):
            if id(tensor) in self.current:
                self.current[id(tensor)].users.append(user)

    def enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        inputs = list(tensors_in((args, kwargs)))
        if not self.inside:
            self.seen.calls[module] += 1
            # What takes its place calls its input "input", as torch's modules do.
            is_step = len(inputs) == 1 and kwargs.keys() <= {"input"}
            self.use(inputs, module if is_step else None)
        self.inside.append(module)
        if len(inputs) == 1:
            self.seen.input_shape[module] = tuple(inputs[0].shape)

    def leave(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.inside.pop()
        output = output.words if isinstance(output, Bits) else output
        if not self.inside and isinstance(output, Tensor):
            key = id(output)  # another tensor may get it when this one is gone
            value = _Value(output, module, lambda _: self.current.pop(key, None))
            self.values.append(value)
            self.current[key] = value

    def use_survivors(self) -> None:
        """Write down a use of every value that somebody still holds."""
        if any(value.user is not None and value.tensor() is not None for value in self.values):
            gc.collect()  # what is only part of a circle of references is held by nobody
        for value in self.values:
            if value.tensor() is not None:
                value.users.append(None)

    def flow(self) -> Flow:
        for value in self.values:
            user = value.user
            if user is not None and self.seen.calls[value.maker] == self.seen.calls[user] == 1:
                self.seen.after[value.maker] = user
                self.seen.before[user] = value.maker
        return self.seen


class _Dispatched(TorchDispatchMode):
    """Tells a watch of the operators that run, those of scripted code too, which no torch function mode sees."""

    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.watch.inside:
            self.watch.use((args, kwargs))
        return func(*args, **kwargs)


def chain(steps: dict[nn.Module, nn.Module], start: nn.Module) -> Iterable[nn.Module]:
    """The modules that ``steps`` (``before`` or ``after``) leads to from ``start``, without it."""
    while start in steps:
        start = steps[start]
        yield start
