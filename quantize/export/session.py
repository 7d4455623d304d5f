"""onnxruntime sessions."""

import os
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from ..scheme import did_you_mean

CPU = ("CPUExecutionProvider",)
_ERRORS_ONLY = 3


def ort_session(
    path: str | os.PathLike, threads: int | None = None, providers: Sequence[str] = CPU
) -> onnxruntime.InferenceSession:
    """An onnxruntime session for an ONNX file.

    Args:
        path: the file.
        threads: how many work on one operator; None is onnxruntime's choice, one a core.
        providers: where to run, best first: ``("CUDAExecutionProvider", "CPUExecutionProvider")``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: onnxruntime does not accept the file, ``threads`` or a provider.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no ONNX file at {str(path)!r}: write one with export_onnx(model, path, example_input)"
        )
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}; it must be at least 1, or None for one a core")
    available = onnxruntime.get_available_providers()
    for provider in providers:
        if provider not in available:
            raise ValueError(f"onnxruntime has no provider {provider!r} here: {did_you_mean(provider, available)}")
    return create_session(str(path), threads, providers)


def create_session(
    model: str | bytes, threads: int | None = None, providers: Sequence[str] = CPU
) -> onnxruntime.InferenceSession:
    """A session for a file or for a model in memory. Raises ValueError where onnxruntime cannot run it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base
        name = "the exported graph" if isinstance(model, bytes) else repr(model)
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"onnxruntime cannot run {name}; is it a whole ONNX file? {reason}") from error
