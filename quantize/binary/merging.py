"""A warning where adapters of the package ``peft`` are merged into a binary layer."""

import functools
import warnings

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from .binary_layer import BinaryLayer


@functools.cache
def watch_merges() -> None:
    """From now on, warn of ``merge_and_unload`` into a binary layer.

    It adds the adapters' product to ``layer.weight.data``, which nobody can see, and then puts the layer back into the
    place of the module that wrapped it; that torch tells.
    """
    register_module_module_registration_hook(_warn_of_merge)


def _warn_of_merge(parent: nn.Module, name: str, layer: nn.Module | None) -> None:
    if not isinstance(layer, BinaryLayer):
        return
    wrapper = parent._modules.get(name)
    if getattr(wrapper, "base_layer", None) is layer and getattr(wrapper, "merged", False):
        warnings.warn(
            f"adapters were merged into the binary layer {name!r}: it computes with sign(W + BA) now, and trained was "
            "sign(W) + BA; keep the adapters beside it (no merge), or train on after the merge",
            stacklevel=2,
        )
