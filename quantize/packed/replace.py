"""A module that becomes another in its place: whoever holds it, in a list of the model's own too, holds the new one."""

import functools
from collections.abc import Hashable
from typing import Any, cast

from torch import nn
from torch.compiler import is_compiling
from torch.jit import is_tracing

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # and which of them take keywords


def take_over_hooks(new: nn.Module, old: nn.Module) -> None:
    """Give ``new`` what is called with ``old``."""
    vars(new).update({name: value for name, value in vars(old).items() if name.startswith(_HOOKS)})


def become(old: nn.Module, new: nn.Module) -> None:
    """Make ``old`` what ``new`` is, which is not used afterwards."""
    old.__class__ = type(new)
    vars(old).clear()
    vars(old).update(vars(new))


class ShortSequential(nn.Sequential):
    """``nn.Sequential`` without calls that compute nothing: each takes a microsecond or two in Python.

    What its neighbours have absorbed is left out, and containers in it are gone through as if their modules stood here;
    those with hooks are called. Where something traces, all are called: it tells modules apart by that.
    """

    def forward(self, input):
        return super().forward(input) if is_compiling() or is_tracing() else _through(self, input)


def _through(container: nn.Sequential, x: Any) -> Any:
    for module in container:
        inside = _computes_nothing(cast(Hashable, type(module)))
        if not inside or module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            x = module(x)
        elif module._modules:  # no identity
            x = _through(cast(nn.Sequential, module), x)
    return x


@functools.cache
def _computes_nothing(kind: Hashable) -> bool:
    """Whether modules of a class do nothing but call those in them one after the other, if any."""
    module = cast(type[nn.Module], kind)  # a class is hashable, which mypy does not see
    forwards = (nn.Sequential.forward, ShortSequential.forward, nn.Identity.forward)
    plain = issubclass(module, (nn.Sequential, nn.Identity)) and module.forward in forwards
    return plain and module.__call__ is nn.Module.__call__


def shorten(model: nn.Module) -> None:
    """Let the plain containers of ``model`` leave out what need not be called."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(_computes_nothing(cast(Hashable, type(child))) for child in module):
            module.__class__ = ShortSequential
