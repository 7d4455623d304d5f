"""What convert made of each layer, as a table."""

import dataclasses
from collections.abc import Iterator

from torch import nn

from ..binary.quantized_layer import QuantizedLayer
from ..words import format_table
from .int8.calibration import Int8Report
from .int8.int8_layers import Int8Layer
from .layers import PackedLayer


@dataclasses.dataclass(frozen=True)
class LayerConversion:
    """One layer of a converted model.

    Attributes:
        name: of the module.
        type: its class.
        input, output: "bits" or "float".
        absorbed: names of the modules that the layer computes too.
        bytes: of its state.
        note: what was left as it is, and why.
    """

    name: str
    type: str
    input: str
    output: str
    absorbed: tuple[str, ...]
    bytes: int
    note: str

    def neighbours(self) -> str:
        """``absorbed``, without the part of a name that is the layer's own."""
        own = self.name.split(".")

        def short(name: str) -> str:
            parts = name.split(".")
            shared = 0
            while shared < min(len(own), len(parts)) - 1 and own[shared] == parts[shared]:
                shared += 1
            return ".".join(parts[shared:])

        return ", ".join(map(short, self.absorbed))


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """A row for each layer that was binary, or is in 8 bits. ``print(report)`` shows a table.

    Attributes:
        float_layers: what 8 bits in float layers changed on the images of the calibration; None where there are none.
    """

    layers: tuple[LayerConversion, ...]
    float_layers: Int8Report | None = None

    def __iter__(self) -> Iterator[LayerConversion]:
        return iter(self.layers)

    def __str__(self) -> str:
        header = ("layer", "became", "input", "output", "computes too", "bytes", "note")
        rows = [
            (row.name, row.type, row.input, row.output, row.neighbours(), f"{row.bytes:,}", row.note)
            for row in self.layers
        ]
        table = format_table(header, rows, right=("bytes",))
        return table if self.float_layers is None else f"{table}\n{self.float_layers}"


def conversion_report(model: nn.Module) -> ConversionReport:
    """What :func:`quantize.convert` made of each binary layer of ``model``, which it returned."""
    rows = []
    for name, module in model.named_modules():
        if isinstance(module, PackedLayer):
            fold = module.folding
            source, end = ("bits" if bits else "float" for bits in (fold.input_bits, fold.output_bits))
            size, absorbed, note = module.stored_bytes(), fold.absorbed, fold.note
        elif isinstance(module, (QuantizedLayer, Int8Layer)):
            size = sum(t.numel() * t.element_size() for t in module.state_dict().values())
            source, end, absorbed, note = "float", "float", (), module.note
        else:
            continue
        rows.append(LayerConversion(name, type(module).__name__, source, end, absorbed, size, note))
    in_8_bits = (module.report for module in model.modules() if isinstance(module, Int8Layer))
    return ConversionReport(tuple(rows), next(in_8_bits, None))
