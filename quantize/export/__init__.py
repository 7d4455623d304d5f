"""ONNX files: writing them, checking them against PyTorch, running them."""

from .exporter import ExportReport, export_onnx
from .parity import ExportMismatch
from .session import ort_session

__all__ = ["ExportMismatch", "ExportReport", "export_onnx", "ort_session"]
