"""A model to run in place of another, whose runs leave no trace."""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..calling import copy_model, random_state_kept


@contextlib.contextmanager
def stand_in(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of ``model`` to run and to change; where it cannot be copied the model itself, put back afterwards.

    No random numbers have been drawn afterwards, whatever was run.
    """
    with random_state_kept(model):
        try:
            copied = copy_model(model)
        except ValueError:
            with _put_back(model):
                yield model
        else:
            yield copied


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Restore what ``model`` consists of: see :class:`_Snapshot`."""
    snapshot = _Snapshot(model)
    try:
        yield
    finally:
        snapshot.restore()


class _Snapshot:
    """The attributes of a model's modules, what is in lists, dicts and sets among them, and the values of tensors.

    Objects of other classes are not looked into: what has no copy, such as a lock or a connection, is often in use
    elsewhere.
    """

    def __init__(self, model: nn.Module):
        self._containers: list[tuple[Any, Any]] = []  # with a shallow copy
        self._tensors: list[tuple[Tensor, Tensor, bool]] = []  # with its values and whether it requires a gradient
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._known: set[int] = set()
        for module in model.modules():
            self._save(module)

    def _save(self, value: Any) -> None:
        if id(value) in self._known:
            return
        self._known.add(id(value))
        if isinstance(value, Tensor):
            self._tensors.append((value, value.detach().clone(), value.requires_grad))
        elif isinstance(value, np.ndarray):
            self._arrays.append((value, value.copy()))
        elif isinstance(value, nn.Module):
            self._save(vars(value))
        elif isinstance(value, (dict, list, set, deque)):
            # All that is in a container lives as long as this copy of it, so that no id is given twice.
            content = dict(value) if isinstance(value, dict) else list(value)
            self._containers.append((value, content))
            for part in content.values() if isinstance(content, dict) else content:
                self._save(part)
        elif isinstance(value, tuple):
            for part in value:
                self._save(part)

    @torch.no_grad()
    def restore(self) -> None:
        for container, content in self._containers:
            container.clear()
            container.extend(content) if isinstance(container, (list, deque)) else container.update(content)
        for tensor, values, requires_grad in self._tensors:
            # A write of equal values too would tell autograd that a graph of the caller's is out of date.
            if tensor.shape != values.shape:
                tensor.data = values
            elif not torch.equal(tensor, values):
                tensor.copy_(values)
            if tensor.is_leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
        for array, numbers in self._arrays:
            array[...] = numbers
