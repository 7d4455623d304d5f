"""xnorkit: turn any PyTorch network into a 1-bit network, train it, inspect it and ship it."""

import importlib
from typing import TYPE_CHECKING

from . import schemes
from .binary.adapters import register_layer
from .binary.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
    BinaryLayer,
    BinaryLinear,
)
from .compact import compact_state, load_compact_state
from .complexity import LayerCost, Summary, summary
from .mixed_precision import LayerChoice, MixedPrecision, search
from .optim import (
    anneal_after_step,
    clip_after_step,
    clip_latent_weights,
    estimate_statistics,
    param_groups,
    set_progress,
    use_float_weights,
)
from .packed.check import ConversionMismatch
from .packed.convert import convert
from .packed.layers import PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from .packed.report import ConversionReport, LayerConversion, conversion_report
from .planning.plan import LayerPlan, Plan, plan
from .prepare import apply_plan, prepare, restore
from .replay.capture import CannotCapture, Captured, capture
from .scheme import QuantizedWeight, Scheme, get_scheme, list_schemes, register_scheme
from .version import __version__

if TYPE_CHECKING:  # for type checkers, editors and the reference
    from .export import ExportMismatch, ExportReport, custom_ops_library, export_onnx, ort_session

# Loaded on first use: onnx and onnxruntime take a second to import.
_EXPORT = ("ExportMismatch", "ExportReport", "custom_ops_library", "export_onnx", "ort_session")


def __getattr__(name: str):
    if name in _EXPORT:
        return getattr(importlib.import_module(".export", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv3d",
    "BinaryConvTranspose1d",
    "BinaryConvTranspose2d",
    "BinaryConvTranspose3d",
    "BinaryLayer",
    "BinaryLinear",
    "CannotCapture",
    "Captured",
    "ConversionMismatch",
    "ConversionReport",
    "ExportMismatch",
    "ExportReport",
    "LayerChoice",
    "LayerConversion",
    "LayerCost",
    "LayerPlan",
    "MixedPrecision",
    "PackedConv1d",
    "PackedConv2d",
    "PackedLayer",
    "PackedLinear",
    "Plan",
    "QuantizedWeight",
    "Scheme",
    "Summary",
    "__version__",
    "anneal_after_step",
    "apply_plan",
    "capture",
    "clip_after_step",
    "clip_latent_weights",
    "compact_state",
    "conversion_report",
    "convert",
    "custom_ops_library",
    "estimate_statistics",
    "export_onnx",
    "get_scheme",
    "list_schemes",
    "load_compact_state",
    "ort_session",
    "param_groups",
    "plan",
    "prepare",
    "register_layer",
    "register_scheme",
    "restore",
    "schemes",
    "search",
    "set_progress",
    "summary",
    "use_float_weights",
]
