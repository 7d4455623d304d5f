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


class ShortSequential(nn.Sequential):
    """``nn.Sequential`` past what its neighbours have absorbed: calling nothing takes a microsecond in Python too."""

    def forward(self, input):
        for module in self._modules.values():
            if type(module) is not nn.Identity or module._forward_hooks or module._forward_pre_hooks:
                input = module(input)
        return input


def shorten(model: nn.Module) -> None:
    """Let the plain containers of ``model`` that hold an identity leave it out."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(type(child) is nn.Identity for child in module):
            module.__class__ = ShortSequential
