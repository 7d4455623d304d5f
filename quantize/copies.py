"""Copies of a model, for whatever must not change it."""

import copy

from torch import Tensor, nn


def copy_model(model: nn.Module, instead: str = "") -> nn.Module:
    """A deep copy of ``model``, without gradients' history.

    Tensors that a hook computes from parameters before each forward pass (``torch.nn.utils.weight_norm``, pruning),
    which torch refuses to copy, are copied as they are.

    Raises ValueError where the model cannot be copied; ``instead`` is what else could be done.
    """
    values = [value for module in model.modules() for value in vars(module).values()]
    computed = {id(v): v.detach().clone() for v in values if isinstance(v, Tensor) and not v.is_leaf}
    try:
        return copy.deepcopy(model, computed)
    except Exception as error:  # locks, tensors in lists, what a class of the user's raises
        raise ValueError(f"the model cannot be copied ({error}){instead and f'; {instead}'}") from error


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A float32 copy in evaluation mode, without torch.compile's or (Distributed)DataParallel's wrapper.

    Raises ValueError where the model cannot be copied.
    """
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return copy_model(model).float().eval()
