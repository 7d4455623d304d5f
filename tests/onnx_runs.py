"""Independent ways to run an ONNX file: onnxruntime, the reference implementation of the standard, QONNX's executor."""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from torch import Tensor

import quantize
from quantize.export.onnx_session import QonnxSession

export_standard = functools.partial(quantize.export_onnx, format="standard")


def feeds(path, inputs: tuple[Tensor, ...]) -> dict[str, np.ndarray]:
    names = [value.name for value in onnx.load(path).graph.input]
    return {name: x.numpy() for name, x in zip(names, inputs, strict=True)}


def onnxruntime_outputs(path, *inputs: Tensor) -> list[np.ndarray]:
    """With all of onnxruntime's graph optimizations: they must not change an answer."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, feeds(path, inputs))


def reference_outputs(path, *inputs: Tensor) -> list[np.ndarray]:
    return ReferenceEvaluator(str(path)).run(None, feeds(path, inputs))


def qonnx_outputs(path, *inputs: Tensor) -> list[np.ndarray]:
    return QonnxSession(str(path)).run(None, feeds(path, inputs))


RUNTIMES = {"onnxruntime": onnxruntime_outputs, "reference": reference_outputs}


def runtimes(format: str) -> dict:
    """Those that know the files of a format."""
    if format != "qonnx":
        return RUNTIMES
    pytest.importorskip("qonnx", reason="the package qonnx is not installed")
    return {"qonnx": qonnx_outputs}
