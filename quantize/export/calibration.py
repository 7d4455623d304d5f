"""``float_layers="int8"`` of :func:`quantize.export_onnx`: what 8 bits change on the images given."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..calling import describe
from ..words import did_you_mean
from .float_layers import FloatLayer, float_layers, quantize_layers
from .onnx_session import create_session

CHOICES = ("float", "int8")
MAX_DROP = 0.1  # points
_BATCH = 32  # images at a time


@dataclass(frozen=True)
class Calibration:
    """What the layers are calibrated on.

    Attributes:
        images: float32 (N, ...), on the CPU.
        labels: int64 of the shape of the predictions, or None.
        max_drop: the points of accuracy that 8 bits may cost.
    """

    images: Tensor
    labels: Tensor | None
    max_drop: float


@dataclass(frozen=True)
class Int8Report:
    """What 8 bits in the float layers changed.

    Attributes:
        layers: the names of their nodes.
        images: how many there were.
        before, after: top-1 in percent; without labels the share of predictions that stay, so that ``before`` is 100.
        labelled: whether labels were given.
        difference: the largest of an output, of the largest value.
    """

    layers: tuple[str, ...]
    images: int
    before: float
    after: float
    labelled: bool
    difference: float

    @property
    def drop(self) -> float:
        """In points."""
        return self.before - self.after

    def __str__(self) -> str:
        count = f"{len(self.layers)} float layer{'s' * (len(self.layers) > 1)} in 8 bits"
        if self.labelled:
            change = f"top-1 {self.before:.2f}% before, {self.after:.2f}% after"
        else:
            change = f"{self.drop:.2f}% of the predictions change"
        return f"{count}: {change} on {self.images:,} images, outputs differ by up to {self.difference:.2g}"


def calibration_of(
    choice: str, format: str, images: Any, labels: Any, max_drop: float | None, example: Any
) -> Calibration | None:
    """What the arguments of :func:`quantize.export_onnx` ask for; None where the float layers stay as they are.

    Raises ValueError or TypeError, in one sentence, where they do not fit together or to ``example``.
    """
    if choice not in CHOICES:
        raise ValueError(f"unknown float_layers {choice!r}: {did_you_mean(choice, CHOICES)}")
    if choice == "float":
        for name, value in {"calibration": images, "labels": labels, "max_drop": max_drop}.items():
            if value is not None:
                raise ValueError(f"{name} is for float_layers='int8'; give both, or neither")
        return None
    if format != "packed":
        raise ValueError(f"float_layers='int8' is for format 'packed', not {format!r}; leave float_layers out")
    if images is None:
        raise ValueError(
            "float_layers='int8' needs calibration: a tensor of images like those that the network will see"
        )
    drop = MAX_DROP if max_drop is None else max_drop
    if not drop >= 0:
        raise ValueError(f"max_drop is {drop}; it must be 0 points or more")
    return Calibration(_images(images, example), _labels(labels, images), drop)


def _images(images: Any, example: Any) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"calibration must be a tensor of images, not {type(images).__name__}")
    if not isinstance(example, Tensor):
        raise ValueError(
            f"float_layers='int8' is for models that take one tensor; example_input is {describe(example)}; "
            "leave float_layers out"
        )
    if not (images.is_floating_point() and example.is_floating_point()):
        raise TypeError(f"calibration must be floats, normalized as the network takes them; it is {images.dtype}")
    if images.dim() != example.dim() or images.shape[1:] != example.shape[1:] or not len(images):
        wanted = ", ".join(map(str, example.shape[1:]))
        raise ValueError(
            f"calibration is {tuple(images.shape)}; like example_input it must be (N, {wanted}), N at least 1"
        )
    images = images.detach().cpu().float()
    if not images.isfinite().all():
        raise ValueError("calibration has values that are not finite; leave such images out")
    return images


def _labels(labels: Any, images: Tensor) -> Tensor | None:
    if labels is None:
        return None
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        what = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of whole numbers, the class of each image; got {what}")
    if not labels.dim() or len(labels) != len(images):
        raise ValueError(f"labels is {tuple(labels.shape)} for {len(images)} images of calibration; give one an image")
    return labels.detach().cpu().long()


def quantize_float_layers(program: ir.Model, parameters: Container[str], calibration: Calibration) -> Int8Report:
    """Put the layers of a packed program whose weights are ``parameters`` in 8 bits, in place.

    Raises ValueError where there are none, where an output has no classes, or where that costs more than
    ``calibration.max_drop``.
    """
    layers = float_layers(program, parameters)
    if not layers:
        raise ValueError("the network has no float layers that 8 bits could hold; leave float_layers out")
    names = tuple(str(layer.node.name) for layer in layers)
    before, ranges = _run(program, calibration.images, layers)
    quantize_layers(program, layers, ranges)
    after, _ = _run(program, calibration.images)
    report = _report(names, before, after, calibration)
    if report.drop > calibration.max_drop:
        raise ValueError(
            f"8 bits in the float layers are refused: {_cost(report)} {report.images:,} images, a drop of "
            f"{report.drop:.2f} points where max_drop={calibration.max_drop:g} is allowed; calibrate on more images, "
            "raise max_drop or leave float_layers out"
        )
    return report


def _cost(report: Int8Report) -> str:
    if report.labelled:
        return f"top-1 is {report.before:.2f}% before and {report.after:.2f}% after on"
    return f"{report.drop:.2f}% of the predictions change, {report.after:.2f}% stay, on"


def _report(names: tuple[str, ...], before: np.ndarray, after: np.ndarray, calibration: Calibration) -> Int8Report:
    if before.ndim < 2:
        raise ValueError(
            f"the model's output for {len(calibration.images)} images has shape {before.shape} and no classes, so that "
            "what 8 bits cost cannot be told; leave float_layers out"
        )
    classes = [outputs.argmax(1) for outputs in (before, after)]
    target = classes[0]
    if calibration.labels is not None:
        target = calibration.labels.numpy()
        if target.shape != classes[0].shape:
            raise ValueError(f"labels is {target.shape}; the predictions are {classes[0].shape}")
    first, then = (100 * float((found == target).mean()) for found in classes)
    apart = np.abs(after.astype(np.float64) - before).max() / (np.abs(before).max() or 1.0)
    return Int8Report(names, len(before), first, then, calibration.labels is not None, float(apart))


def _run(
    program: ir.Model, images: Tensor, layers: Sequence[FloatLayer] = ()
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The first output for the images, and the range of the input of each of ``layers``, in onnxruntime."""
    observed = list(dict.fromkeys(str(layer.input.name) for layer in layers))
    session = create_session(_watching(program, observed))
    (fed,), output = session.get_inputs(), session.get_outputs()[0].name
    asked = [output, *(name for name in observed if name != fed.name)]
    outputs, extremes = [], dict.fromkeys(observed, (np.inf, -np.inf))
    for batch in images.split(_BATCH):
        values = {fed.name: batch.numpy()}
        values |= dict(zip(asked, session.run(asked, values), strict=True))
        outputs.append(values[output])
        for name, (low, high) in extremes.items():
            extremes[name] = min(low, float(values[name].min())), max(high, float(values[name].max()))
    return np.concatenate(outputs), [extremes[str(layer.input.name)] for layer in layers]


def _watching(program: ir.Model, names: list[str]) -> bytes:
    """The program in bytes, with the values of these names as further outputs."""
    proto = ir.to_proto(program)
    known = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    for name in names:
        if name not in known:
            proto.graph.output.add(name=name).type.tensor_type.elem_type = ir.DataType.FLOAT.value
    return proto.SerializeToString()
