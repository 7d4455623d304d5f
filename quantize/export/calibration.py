"""``float_layers="int8"`` of :func:`quantize.export_onnx`: the packed program before and after, in onnxruntime."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ..packed import calibration as shared
from ..packed.calibration import BATCH, NO_LAYERS, Calibration, Int8Report, report_of
from .float_layers import FloatLayer, float_layers, quantize_layers
from .onnx_session import create_session


def calibration_of(
    choice: str, format: str, images: Any, labels: Any, max_drop: float | None, example: Any
) -> Calibration | None:
    """What the arguments of :func:`quantize.export_onnx` ask for; None where the float layers stay as they are.

    Raises ValueError or TypeError, in one sentence, where they do not fit together or to ``example``.
    """
    asked = shared.calibration_of(choice, images, labels, max_drop, example)
    if asked is not None and format != "packed":
        raise ValueError(f"float_layers='int8' is for format 'packed', not {format!r}; leave float_layers out")
    return asked


def quantize_float_layers(program: ir.Model, parameters: Container[str], calibration: Calibration) -> Int8Report:
    """Put the layers of a packed program whose weights are ``parameters`` in 8 bits, in place.

    Raises ValueError where there are none, where an output has no classes, or where that costs more than
    ``calibration.max_drop``.
    """
    layers = float_layers(program, parameters)
    if not layers:
        raise ValueError(NO_LAYERS)
    names = tuple(str(layer.node.name) for layer in layers)
    before, ranges = _run(program, calibration.images, layers)
    quantize_layers(program, layers, ranges)
    after, _ = _run(program, calibration.images)
    return report_of(names, before, after, calibration)


def _run(
    program: ir.Model, images: Tensor, layers: Sequence[FloatLayer] = ()
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """The first output for the images, and the range of the input of each of ``layers``, in onnxruntime."""
    observed = list(dict.fromkeys(str(layer.input.name) for layer in layers))
    session = create_session(_watching(program, observed))
    (fed,), output = session.get_inputs(), session.get_outputs()[0].name
    asked = [output, *(name for name in observed if name != fed.name)]
    outputs, extremes = [], dict.fromkeys(observed, (np.inf, -np.inf))
    for batch in images.split(BATCH):
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
