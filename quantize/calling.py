"""How a model is called: its example input as arguments, one run, what is in a result, and copies to call instead."""

import contextlib
import copy
import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from .sharded import is_sharded

Result = TypeVar("Result")

_INSTEAD = "give the nn.Module it was made of"


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
        if isinstance(example_input, list) and _runs(model, (example_input,)):
            reason = "a list is taken for several arguments; write ([...],) for a model that takes one list of images"
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(example_input)):
            reason += "; example_input must hold tensors, such as torch.randn(2, 3, 224, 224)"
        raise ValueError(f"the model does not run on example_input, {describe(example_input)}: {reason}") from error


def _runs(model: nn.Module, example_input: tuple) -> bool:
    try:
        model(*example_input)
    except Exception:
        return False
    return True


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


class _ComputedTensors(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy tensors that were computed, which torch refuses, as they are."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def check_is_module(model: nn.Module) -> None:
    """Raise TypeError for what is no ``nn.Module``, or is one without layers: a scripted or traced one."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "the model is a scripted or traced one, whose layers are fixed; give the nn.Module it was made of"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is a {type(model).__name__}, not an nn.Module; {_INSTEAD}")


def check_has_layers(model: nn.Module) -> None:
    """Raise TypeError for the module of an exported program, whose operations have no layers around them."""
    check_is_module(model)
    if isinstance(model, torch.fx.GraphModule):
        targets = (node.target for node in model.graph.nodes if node.op == "call_function")
        if any(isinstance(target, torch._ops.OpOverload) for target in targets):
            raise TypeError(
                "the model is that of an exported program, without layers; give the nn.Module it was made of"
            )


def check_has_values(model: nn.Module, instead: str = "") -> None:
    """Raise ValueError for a model on the meta device; ``instead`` is what else could be done."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    name = next((name for name, tensor in tensors if tensor.is_meta), None)
    if name is not None:
        raise ValueError(
            f"{name!r} is on the meta device and has no values to compute with: call model.to_empty(device='cpu') and "
            f"load a checkpoint{instead and f', or {instead}'}"
        )


def copy_model(model: nn.Module, instead: str = "") -> nn.Module:
    """A deep copy of ``model``, without gradients' history.

    Tensors that the model has computed and kept (what ``torch.nn.utils.weight_norm`` and pruning make of parameters,
    features of its last forward pass) are copied as they are.

    Raises ValueError where the model cannot be copied; ``instead`` is what else could be done.
    """
    check_is_module(model)
    instead = instead and f"; {instead}"
    if any(is_sharded(parameter) for parameter in model.parameters()):
        raise ValueError(
            "the model is sharded: gather it with torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)), and load that into the same model without shards"
        )
    try:
        with _ComputedTensors():
            copied = copy.deepcopy(model)
    except Exception as error:  # locks, what a class of the user's raises
        raise ValueError(f"the model cannot be copied ({error}){instead}") from error
    originals = {*model.modules()}
    for name, module in copied.named_modules():
        for attribute, value in vars(module).items():
            if not originals.isdisjoint(_modules_in_functions(value)):
                place = repr(f"{name}.{attribute}".lstrip("."))
                function = f"a function in {place}" if isinstance(value, _CONTAINERS) else f"its function {place}"
                raise ValueError(f"the model cannot be copied ({function} holds the model itself){instead}")
    return copied


_CONTAINERS = (Mapping, list, tuple, set)


def _modules_in_functions(value: Any, depth: int = 4) -> Iterator[nn.Module]:
    """The modules that functions carry along: a lambda that took the place of a ``forward``, a hook, one in a list.

    A function is not copied, so that the one in a copy still calls them.
    """
    while isinstance(value, functools.partial):
        value = value.func
    if depth and isinstance(value, _CONTAINERS):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _modules_in_functions(item, depth - 1)
    elif isinstance(value, FunctionType):
        carried = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]  # not the empty ones
        for one in (*carried, *(value.__defaults__ or ())):
            one = getattr(one, "__self__", one)  # of a bound method
            if isinstance(one, nn.Module):
                yield one


def evaluation_copy(model: nn.Module) -> nn.Module:
    """A float32 copy in evaluation mode, without torch.compile's or (Distributed)DataParallel's wrapper.

    Raises ValueError where the model cannot be copied, or is on the meta device.
    """
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    check_is_module(model)
    check_has_values(model)
    return copy_model(model).float().eval()


@contextlib.contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` may draw random numbers, of torch, numpy or Python; afterwards none has been drawn."""
    tensors = (*model.parameters(), *model.buffers())
    devices = {tensor.get_device() for tensor in tensors if tensor.is_cuda}
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def keeps_random_state(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorator: ``function`` runs its first argument, a model, under :func:`random_state_kept`."""

    @functools.wraps(function)
    def keeping(model: nn.Module, *args, **kwargs) -> Result:
        check_is_module(model)
        with random_state_kept(model):
            return function(model, *args, **kwargs)

    return keeping
