"""ONNX files: writing them, checking them against PyTorch, running them."""

from .exporter import ExportReport, export_onnx
from .onnx_session import custom_ops_library, ort_session
from .parity import ExportMismatch

__all__ = ["ExportMismatch", "ExportReport", "custom_ops_library", "export_onnx", "ort_session"]
