"""``float_layers="int8"``: what it is calibrated on, and what 8 bits change on the images given."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...calling import describe, tensors_in
from ...words import did_you_mean
from ..replace import become, take_over_hooks
from .int8_layers import Int8Layer, has_8_bit_form, in_8_bits

CHOICES = ("float", "int8")
MAX_DROP = 0.1  # points
BATCH = 32  # images at a time
NO_LAYERS = "the network has no float layers that 8 bits could hold; leave float_layers out"


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


def calibration_of(choice: str, images: Any, labels: Any, max_drop: float | None, example: Any) -> Calibration | None:
    """What the arguments of :func:`quantize.convert` ask for; None where the float layers stay as they are.

    Raises ValueError or TypeError, in one sentence, where they do not fit together or to ``example``.
    """
    if choice not in CHOICES:
        raise ValueError(f"unknown float_layers {choice!r}: {did_you_mean(choice, CHOICES)}")
    if choice == "float":
        for name, value in {"calibration": images, "labels": labels, "max_drop": max_drop}.items():
            if value is not None:
                raise ValueError(f"{name} is for float_layers='int8'; give both, or neither")
        return None
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


def _cost(report: Int8Report) -> str:
    if report.labelled:
        return f"top-1 is {report.before:.2f}% before and {report.after:.2f}% after on"
    return f"{report.drop:.2f}% of the predictions change, {report.after:.2f}% stay, on"


def report_of(names: Sequence[str], before: np.ndarray, after: np.ndarray, calibration: Calibration) -> Int8Report:
    """What changed from the outputs ``before`` to those ``after``, in the layers of these names.

    Raises ValueError where an output has no classes, or where that costs more than ``calibration.max_drop``.
    """
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
    report = Int8Report(tuple(names), len(before), first, then, calibration.labels is not None, float(apart))
    if report.drop > calibration.max_drop:
        raise ValueError(
            f"8 bits in the float layers are refused: {_cost(report)} {report.images:,} images, a drop of "
            f"{report.drop:.2f} points where max_drop={calibration.max_drop:g} is allowed; calibrate on more images, "
            "raise max_drop or leave float_layers out"
        )
    return report


def quantize_float_layers(model: nn.Module, calibration: Calibration) -> Int8Report:
    """Put the float layers of a converted model in 8 bits, in place.

    Those that the model does not call on the images, and those of other forms than 8 bits have, stay float.

    Raises ValueError where there are none, where an output has no classes, or where that costs more than
    ``calibration.max_drop``.
    """
    layers = {module: name for name, module in model.named_modules() if has_8_bit_form(module)}
    before, ranges = _watched(model, calibration.images, layers)
    if not ranges:
        raise ValueError(NO_LAYERS)
    made = {layer: in_8_bits(layer, *extent) for layer, extent in ranges.items()}
    for layer, new in made.items():
        take_over_hooks(new, layer)
        become(layer, new)
    model.eval()
    report = report_of([layers[layer] for layer in made], before, _outputs(model, calibration.images), calibration)
    for layer in made:
        cast(Int8Layer, layer).report = report
    return report


def _watched(
    model: nn.Module, images: Tensor, layers: Iterable[nn.Module]
) -> tuple[np.ndarray, dict[nn.Module, tuple[float, float]]]:
    """The outputs for the images, and the range of the input of each of ``layers`` that is called."""
    ranges: dict[nn.Module, tuple[float, float]] = {}

    def watch(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        low, high = ranges.get(layer, (np.inf, -np.inf))
        x = inputs[0]
        if x.numel():
            ranges[layer] = min(low, float(x.min())), max(high, float(x.max()))

    handles = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        return _outputs(model, images), ranges
    finally:
        for handle in handles:
            handle.remove()


def _outputs(model: nn.Module, images: Tensor) -> np.ndarray:
    """The first output for the images."""
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    batches = (next(tensors_in(model(batch.to(device)))) for batch in images.split(BATCH))
    return torch.cat(list(batches)).float().cpu().numpy()
