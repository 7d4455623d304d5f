"""The formats of :func:`quantize.export_onnx` by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from torch import nn

from . import int8_format, packed_format, qonnx_format, standard_format
from .onnx_session import QonnxSession, create_session, executor_missing


def _leave(program: ir.Model) -> None:
    """The traced model is the file."""


def _is_checked() -> str:
    return ""


@dataclass(frozen=True)
class Format:
    """How a model becomes a file.

    Attributes:
        lower: from the model in evaluation mode and a batch, the model that the file is compared with, and the one
            that is traced.
        finish: adds to the traced model, in place, what tracing does not know.
        open: a session of a file, or of one in memory, in a runtime that knows the format.
        why_unchecked: why this runtime is not there, or "".
    """

    lower: Callable[[nn.Module, Any], tuple[nn.Module, nn.Module]]
    finish: Callable[[ir.Model], None] = _leave
    open: Callable[[str | bytes], Any] = create_session
    why_unchecked: Callable[[], str] = _is_checked


FORMATS = {
    "packed": Format(packed_format.lower, packed_format.add_functions),
    "standard": Format(standard_format.lower),
    "int8": Format(int8_format.lower),
    "qonnx": Format(qonnx_format.lower, open=QonnxSession, why_unchecked=executor_missing),
}
