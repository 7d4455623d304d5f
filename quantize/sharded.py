"""Parameters of which FSDP keeps a part in each process: what they are, and how a forward pass sets one."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a ``DTensor``; what has made one has loaded its module."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@torch.no_grad()
def set_parameter(layer: nn.Module, name: str, values: Tensor) -> None:
    """Give a parameter of a layer new values, in its forward pass too; ``values`` are the same in all processes.

    Under ``torch.distributed.fsdp.fully_shard`` the parameter that a forward pass sees was gathered for it and is
    thrown away; the one that stays is set too.

    Raises RuntimeError where a forward pass sees something else in the parameter's place.
    """
    parameter = getattr(layer, name)
    if not isinstance(parameter, nn.Parameter):
        raise RuntimeError(
            f"the {name} of a {type(layer).__name__} waits for the first training batch, which DataParallel, "
            "FullyShardedDataParallel and torch.func.functional_call run on copies of the parameters: give "
            "quantize.prepare an example_input, or first call the model itself on a batch in training mode"
        )
    parameter.copy_(values)
    if dist.is_available() and dist.is_initialized():
        for kept in _kept_by_fsdp(layer, name):
            if kept is not parameter:
                kept.copy_(_distribute(values.to(kept.device, kept.dtype), kept))


def _distribute(values: Tensor, like: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    # Without a source each process takes its part of its own values: nothing is sent in the middle of a forward pass.
    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)


def _kept_by_fsdp(layer: nn.Module, name: str) -> Iterator[Any]:
    """The sharded parameter behind the gathered one. ``fully_shard`` has no function that says it."""
    if "torch.distributed.fsdp" not in sys.modules:
        return
    from torch.distributed._composable_state import _get_module_state, _module_state_mapping

    for state in {id(found): found for found in map(_get_module_state, list(_module_state_mapping))}.values():
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        for parameter in (p for group in groups if group is not None for p in group.fsdp_params):
            owner = parameter._module_info
            places = zip(
                (owner.module, *owner.shared_modules), (owner.param_name, *owner.shared_param_names), strict=True
            )
            if any(module is layer and own == name for module, own in places):
                yield parameter.sharded_param
