"""Does the ONNX file compute what the PyTorch model computes?

Two float programs never agree to the last bit, and a network of signs amplifies the last bit: an
input of -1e-8 here and +1e-8 there is -1 here and +1 there, and everything after it differs. So a
large difference at the output alone says nothing; and signs hide a small one on the way to it.

The comparison therefore goes part by part. Every binary layer of the PyTorch model gets the input that
its counterpart in onnxruntime got, so that no rounding to a sign lies inside a part. There the results
must agree, within :data:`TOLERANCE` or within PyTorch's own rounding error, measured against float64.
Equal inputs give equal outputs in every part: by induction, the file is right.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..calling import describe, run, tensors_in
from .tracing import layer_input, takes_signs

# Relative to the largest magnitude in the tensor. One operation is off by a few units of 2^-24 = 6e-8;
# between two binary layers there are a handful.
TOLERANCE = 1e-5
# Deep or badly conditioned float networks are off by more. Two programs in float32, each with an error
# e, differ by up to 2e; their errors e differ with the order of the sums.
ROUNDING_MARGIN = 10


class ExportMismatch(RuntimeError):
    """The exported file does not compute what the model computes."""


@dataclass(frozen=True)
class Parity:
    """How far onnxruntime is from PyTorch, relative to the largest magnitude in a tensor.

    Attributes:
        difference: the largest in any part of the network, given equal inputs.
        end_to_end: at the outputs, when each runs on its own; large where rounding moved a sign.
    """

    difference: float
    end_to_end: float

    def __str__(self) -> str:
        text = f"largest difference from PyTorch {self.difference:.2g} of the largest value"
        if self.end_to_end <= TOLERANCE:
            return text
        return f"{text} layer by layer, {self.end_to_end:.2g} at the outputs, where rounding moved a sign"


def tensors(outputs: Any) -> list[Tensor]:
    """The tensors in what a model takes or returns, in the order of the ONNX inputs or outputs."""
    return list(tensors_in(outputs))


@torch.no_grad()
def compare(
    model: nn.Module, session: onnxruntime.InferenceSession, tapped: onnxruntime.InferenceSession, batch: Any
) -> Parity:
    """Compare ``model`` with the session of a file on one batch.

    Args:
        model: in evaluation mode, on the CPU.
        session: of the file.
        tapped: of the same graph, with the inputs of the binary layers as further outputs.
        batch: a tensor, a tuple or a dict of them.

    Raises ExportMismatch, with the largest difference and where the first one is.
    """
    expected, found = tensors(run(model, batch)), _infer(session, batch)
    end_to_end = max(_difference(*pair) for pair in zip(found, expected, strict=True))
    taps = _infer(tapped, batch)[len(expected) :]
    return Parity(_largest_in_any_part(model, taps, found, batch), end_to_end)


def _infer(session: onnxruntime.InferenceSession, batch: Any) -> list[np.ndarray]:
    feeds = zip(session.get_inputs(), tensors(batch), strict=True)
    try:
        return session.run(None, {value.name: tensor.numpy() for value, tensor in feeds})
    except Exception as error:  # onnxruntime's exceptions have no common base
        reason = str(error).strip().partition("\n")[0]
        raise ExportMismatch(
            f"PyTorch takes input {describe(batch)}, but the ONNX file does not run on it: {reason}"
        ) from error


def _largest_in_any_part(model: nn.Module, taps: list[np.ndarray], outputs: list[np.ndarray], batch: Any) -> float:
    """The largest difference; ExportMismatch where one is too large.

    Args:
        taps: the inputs of the binary layers in onnxruntime, in the order of the calls.
        outputs: those of the file, without taps, so that it is the file that is proved right.
    """
    places, expected = _forced(model, taps, batch)
    differences = [_difference(*pair) for pair in zip([*taps, *outputs], expected, strict=True)]
    allowed = [TOLERANCE] * len(places)
    if not max(differences) <= TOLERANCE:
        allowed = [max(TOLERANCE, ROUNDING_MARGIN * error) for error in _rounding(model, expected, taps, batch)]
    wrong = [i for i, difference in enumerate(differences) if not difference <= allowed[i]]
    if wrong:
        first, worst = wrong[0], max(differences[i] for i in wrong)
        raise ExportMismatch(
            f"the ONNX file and PyTorch disagree: the largest difference is {worst:.3g} of the largest value; "
            f"the first is at {places[first]}, {differences[first]:.3g} where {allowed[first]:.3g} is allowed"
        )
    return max(differences)


def _rounding(model: nn.Module, expected: list[Tensor], taps: list[np.ndarray], batch: Any) -> list[float]:
    """How far ``expected``, PyTorch's in float32, is from the same in float64."""
    double = tree_map(lambda t: t.double() if t.is_floating_point() else t, batch)
    try:
        _, exact = _forced(copy.deepcopy(model).double(), taps, double)
    except ValueError:  # the model insists on float32 somewhere
        return [0.0] * len(expected)
    return [_difference(tensor.numpy(), reference) for tensor, reference in zip(expected, exact, strict=True)]


def _forced(model: nn.Module, taps: list[np.ndarray], batch: Any) -> tuple[list[str], list[Tensor]]:
    """Names and values of the inputs of the binary layers and of the outputs, each computed from ``taps``."""
    forced = iter(taps)
    places: list[str] = []
    values: list[Tensor] = []

    def force(name: str):
        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            x = layer_input(args, kwargs)
            places.append(f"the input of {name!r}")
            values.append(x.clone())  # the model may change it in place later
            tap = torch.from_numpy(next(forced)).to(x.dtype)
            return ((tap, *args[1:]), kwargs) if args else (args, {**kwargs, "input": tap})

        return hook

    layers = [(name, layer) for name, layer in model.named_modules() if takes_signs(layer)]
    handles = [layer.register_forward_pre_hook(force(name), with_kwargs=True) for name, layer in layers]
    try:
        outputs = tensors(run(model, batch))
    finally:
        for handle in handles:
            handle.remove()
    return places + [f"output {i}" for i in range(len(outputs))], values + outputs


def _difference(found: np.ndarray, reference: Tensor) -> float:
    """max |found - reference| / max |reference|; infinite where the shapes differ or only one is a number."""
    expected = reference.numpy().astype(np.float64)
    found = found.astype(np.float64)
    if found.shape != expected.shape:
        return float("inf")
    equal = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if equal.all():
        return 0.0
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    apart = np.abs(found[~equal] - expected[~equal]).max()
    return float("inf") if np.isnan(apart) else float(apart / (largest or 1.0))
