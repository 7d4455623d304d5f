"""The formats of :func:`quantize.export_onnx` by name: what each makes of which layer."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from ..binary.layers import BinaryLayer
from ..binary.quantized_layer import QuantizedLayer
from ..packed.codes.expanded import ExpandedLayer
from ..packed.convert import convert
from ..packed.flow import Flow, trace_flow
from ..packed.layers import PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from ..packed.pool import PackedMaxPool2d
from . import float_layers, int8_format, packed_format, qonnx_format, standard_format
from .lowering import Lowering, Network, lowering_of, prelu
from .onnx_session import QonnxSession, create_session, executor_missing


def _leave(program: ir.Model) -> None:
    """The traced model is the file."""


def _is_checked() -> str:
    return ""


@dataclass(frozen=True)
class Format:
    """How a model becomes a file.

    Attributes:
        name: the key in :data:`FORMATS`.
        layers: class -> what is traced in the place of its layers, and of its subclasses' that have no row of their
            own. Any other module is traced as it is.
        converts: the file is that of the model that :func:`quantize.convert` makes.
        finish: adds to the traced model, in place, what tracing does not know.
        join: makes nodes one, in place, once the model has no further outputs between them.
        open: a session of a file, or of one in memory, in a runtime that knows the format.
        why_unchecked: why this runtime is not there, or "".
    """

    name: str
    layers: Mapping[type, Lowering]
    converts: bool = False
    finish: Callable[[ir.Model], None] = _leave
    join: Callable[[ir.Model], None] = _leave
    open: Callable[[str | bytes], Any] = create_session
    why_unchecked: Callable[[], str] = _is_checked

    @torch.no_grad()
    def lower(self, model: nn.Module, batch: Any) -> tuple[nn.Module, nn.Module]:
        """From a model in evaluation mode: (what the file is compared with, a copy with other layers to be traced).

        Raises ValueError where the format cannot be had of the model, or of one of its layers.
        """
        flow = Flow()
        if self.converts:
            if any(isinstance(module, BinaryLayer) for module in model.modules()):
                model = convert(model, batch)
            flow = trace_flow(model, batch, lambda module: lowering_of(module, self.layers) is not None)
        elif any(isinstance(module, PackedLayer) for module in model.modules()):
            raise ValueError(
                f"format {self.name!r} needs the model that was converted, not what quantize.convert returned"
            )
        network, lowered = Network(flow), {}
        for name, layer in model.named_modules():
            lowering = lowering_of(layer, self.layers)
            if lowering is not None:
                try:
                    lowered[id(layer)] = lowering(layer, network)
                except ValueError as error:
                    raise ValueError(f"layer {name!r} has no {self.name.upper()} form: {error}") from error
        # deepcopy takes these for the layers' copies, wherever the model holds the layers.
        return model, copy.deepcopy(model, lowered)


_ALL = (
    Format(
        "packed",
        {
            PackedConv2d: packed_format.BinaryConv,
            PackedConv1d: packed_format.BinaryConv,
            PackedLinear: packed_format.BinaryLinear,
            PackedMaxPool2d: packed_format.max_pool,
            ExpandedLayer: packed_format.with_call,
            nn.PReLU: prelu,
        },
        converts=True,
        finish=packed_format.add_functions,
        join=float_layers.hand_on_bits,
    ),
    Format("standard", {QuantizedLayer: standard_format.with_stored_weight, nn.PReLU: prelu}),
    Format(
        "int8",
        {
            PackedConv2d: int8_format.IntegerConv,
            PackedConv1d: int8_format.IntegerConv,
            PackedLinear: int8_format.IntegerLinear,
            PackedMaxPool2d: int8_format.max_pool,
            QuantizedLayer: standard_format.with_stored_weight,
            nn.PReLU: prelu,
        },
        converts=True,
    ),
    Format(
        "qonnx",
        {QuantizedLayer: qonnx_format.with_dialect},
        open=QonnxSession,
        why_unchecked=executor_missing,
    ),
)
FORMATS = {format.name: format for format in _ALL}
