"""How a model is called: its example input as arguments, one run, what is in a result, and copies to call instead."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


def call_arguments(example_input: Any) -> tuple[tuple, dict]:
    """(args, kwargs) of the model's call: a tensor is one argument, a tuple or list several, a dict keywords."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, (tuple, list)):
        return tuple(example_input), {}
    return (example_input,), {}


def run(model: nn.Module, example_input: Any) -> Any:
    """Call ``model`` on a copy of ``example_input``, which it may change; ValueError when it does not take it."""
    own = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, example_input)
    args, kwargs = call_arguments(own)
    try:
        return model(*args, **kwargs)
    except Exception as error:  # the model's own checks raise what they like
        reason = str(error) or type(error).__name__
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(example_input)):
            reason += "; example_input must hold tensors, such as torch.randn(2, 3, 224, 224)"
        raise ValueError(f"the model does not run on example_input, {describe(example_input)}: {reason}") from error


def float_inputs(example_input: Any) -> Any:
    """``example_input`` with its floats in float32."""

    def cast(value):
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    return tree_map(cast, example_input)


def describe(example_input: Any) -> str:
    """The shapes in ``example_input``, for a message."""
    shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in tree_leaves(example_input)]
    return "of shape " + ", ".join(map(str, shapes))


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or returns: in lists, dicts and the like, and in dataclasses."""
    for leaf in tree_leaves(values):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from tensors_in([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])


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
