"""capture: a run of a converted model without Python between its layers.

A small network at batch 1 takes a tenth of a millisecond, of which most is Python: the modules' calls, the memory of
results, torch's way to the kernel that adds two tensors. A captured run has done all that once, as CUDA's graphs do it
on a GPU: it has its memory, and a list of what to compute in it.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import is_tracing
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from ..calling import call_arguments, describe, evaluation_copy, float_inputs, keeps_random_state, run, tensors_in
from ..kept_bits import is_transformed
from ..packed.check import random_like, relative_difference
from ..packed.ops import refuse_gradient
from .tape import CannotCapture, Tape

_WARM_UP = 3  # runs before the one that is written down: layers bind their calls in the second


class Captured:
    """A model's run for inputs of one shape, called as the model is; :func:`capture` makes it.

    Results are new tensors. Threads take turns: there is one memory.
    """

    def __init__(self, model: nn.Module, inputs: list[Any], structure: TreeSpec, tape: Tape, output: Any):
        self._inputs, self._structure = inputs, structure
        self._is_of_one = structure == tree_flatten(((None,), {}))[1]  # tensor
        self._outputs, self._output_structure = tree_flatten(output)
        self._program = tape.program(tensors_in(output))
        self._held = model, tape  # and with them the memory of weights and of what is computed
        self._turn = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ValueError for inputs of another form than those that it was captured with.

        RuntimeError where something follows what is computed on them: autograd, a tracer, a transform.
        """
        if self._is_of_one and len(args) == 1 and not kwargs:
            given: Sequence[Any] = args  # most networks: trees take a time that counts beside theirs
            is_alike = True
        else:
            given, structure = tree_flatten((args, kwargs))
            is_alike = structure == self._structure
        if not is_alike or not all(map(_is_like, given, self._inputs)):
            raise ValueError(
                f"the run was captured for inputs {describe(self._inputs)} and got some {describe(given)}, or of "
                "another type or device: capture one for these too, or call the model itself"
            )
        _refuse_followed(given)
        if torch.is_autocast_enabled("cpu"):  # what is captured is float32
            with torch.autocast("cpu", enabled=False):
                return self._results(given)
        return self._results(given)

    def _results(self, given: Sequence[Any]) -> Any:
        with self._turn, torch.no_grad():
            for own, value in zip(self._inputs, given, strict=True):
                if isinstance(own, Tensor):
                    own.copy_(value)
            for step in self._program:
                step()
            results = [value.clone() if isinstance(value, Tensor) else value for value in self._outputs]
        return results[0] if self._output_structure.is_leaf() else tree_unflatten(results, self._output_structure)

    def __repr__(self) -> str:
        return f"Captured(inputs {describe(self._inputs)}, {len(self._program)} steps)"

    def __reduce__(self) -> Any:
        raise TypeError("a captured run is of addresses in this process: save the model, load it, and capture it there")


@keeps_random_state
@torch.inference_mode(False)
@torch.no_grad()
@torch.autocast("cpu", enabled=False)
def capture(model: nn.Module, example_input: Any) -> Captured:
    """``model``'s run for inputs like ``example_input``, without the Python between its layers.

        packed = quantize.convert(model, x)
        run = quantize.capture(packed, x)
        run(x)  # what packed(x) is, to the last bit, in less time

    What a copy of the model computes is written down in one run, and each call carries it out again, on memory that is
    kept: layers of bits that follow upon each other, and the arithmetic between them, are one call of the library. It
    pays where networks are small. Hooks are not called, and what a model keeps on itself does not change; what is
    changed in ``model`` afterwards does not reach the run.

    Args:
        model: from :func:`convert`, on the CPU; its run in evaluation mode is captured. It is left as it was.
        example_input: what the model is called with: a tensor, a tuple of arguments or a dict of keywords; floats are
            taken as float32.

    Raises CannotCapture, a ValueError, where the model computes nothing by the native library, where values decide what
    it does or random numbers do, and where the run gives another result than the model on another input; ValueError
    where the model does not run on ``example_input`` or cannot be copied.
    """
    _check_is_on_cpu(model, example_input)
    model = evaluation_copy(model)
    example_input = _copied(float_inputs(example_input))
    for _ in range(_WARM_UP):
        run(model, example_input)
    args, kwargs = call_arguments(example_input)
    inputs, structure = tree_flatten((args, kwargs))
    others = [_copied(example_input), random_like(example_input)]  # the run may change its input
    with Tape(tensors_in(inputs)) as tape:
        output = model(*args, **kwargs)
    _check_output(output)
    if not tape.has_layers:
        raise CannotCapture(
            "the run calls nothing of the native library: convert the model first (quantize.convert); without the "
            "library there is nothing to gain"
        )
    captured = Captured(model, inputs, structure, tape, output)
    for other in others:
        _check_agrees(model, captured, other)
    return captured


def _check_output(output: Any) -> None:
    """Raise CannotCapture where results lie in objects whose tensors cannot be made anew for each call."""
    for leaf in tree_leaves(output):
        if not isinstance(leaf, (Tensor, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)):
            raise CannotCapture(
                f"the model returns a {type(leaf).__name__}, of which no new one can be made for each call: capture a "
                "module that returns tensors, or tuples, lists and dicts of them"
            )


def _check_agrees(model: nn.Module, captured: Captured, example_input: Any) -> None:
    """Raise CannotCapture where the model gives another result than its captured run."""
    try:
        expected = run(model, example_input)
    except ValueError:  # indices, lengths and masks may belong together: it takes no other
        return
    args, kwargs = call_arguments(example_input)
    found = captured(*args, **kwargs)
    if not all(map(_are_equal, tree_leaves(expected), tree_leaves(found))):
        raise CannotCapture(
            "the captured run gives another result than the model: the model keeps state from call to call, or decides "
            "by values that it reads past torch"
        )


def _are_equal(one: Any, other: Any) -> bool:
    return relative_difference(one, other) == 0.0 if isinstance(one, Tensor) else bool(one == other)


def _check_is_on_cpu(model: nn.Module, example_input: Any) -> None:
    tensors = [*model.parameters(), *model.buffers(), *tensors_in(example_input)]
    device = next((tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")), None)
    if device is not None:
        raise CannotCapture(
            f"the model or its input is on {device}: what is captured runs on the CPU; on a GPU "
            "torch.cuda.make_graphed_callables does the same"
        )


def _refuse_followed(values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            refuse_gradient(value)
    if is_compiling() or is_tracing() or is_transformed():
        raise RuntimeError(
            "a captured run is a list of calls that no tracer and no transform sees: compile, export or transform the "
            "converted model that it was captured from"
        )


def _is_like(value: Any, own: Any) -> bool:
    if not isinstance(own, Tensor):
        return type(value) is type(own) and bool(value == own)
    return isinstance(value, Tensor) and (value.shape, value.dtype, value.device) == (own.shape, own.dtype, own.device)


def _copied(values: Any) -> Any:
    return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, values)
