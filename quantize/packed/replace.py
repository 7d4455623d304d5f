"""A module that becomes another in its place: whoever holds it, in a list of the model's own too, holds the new one."""

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")  # and which of them take keywords


def take_over_hooks(new: nn.Module, old: nn.Module) -> None:
    """Give ``new`` what is called with ``old``."""
    vars(new).update({name: value for name, value in vars(old).items() if name.startswith(_HOOKS)})


def become(old: nn.Module, new: nn.Module) -> None:
    """Make ``old`` what ``new`` is, which is not used afterwards."""
    old.__class__ = type(new)
    vars(old).clear()
    vars(old).update(vars(new))
