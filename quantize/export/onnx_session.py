"""onnxruntime sessions, and the kernels that our library brings into them."""

import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime

from ..kernels import library
from ..words import did_you_mean
from .functions import DOMAIN as XNORKIT
from .qonnx_format import DOMAIN as QONNX

CPU = ("CPUExecutionProvider",)
_ERRORS_ONLY = 3


def custom_ops_library() -> str:
    """The path of the library that brings our kernels into onnxruntime.

    It is what ``SessionOptions.register_custom_ops_library`` takes, in the languages in which onnxruntime has it (C,
    C++, C#, Java, Python); the library needs neither Python nor torch.

    Raises:
        FileNotFoundError: the library was not built.
    """
    if library.load() is None:
        raise FileNotFoundError(library.not_built())
    return str(library.path())


def ort_session(
    path: str | os.PathLike, threads: int | None = None, providers: Sequence[str] = CPU, *, kernels: bool = True
) -> onnxruntime.InferenceSession:
    """An onnxruntime session for an ONNX file.

    Args:
        path: the file.
        threads: how many work on one operator; None is onnxruntime's choice, one a core.
        providers: where to run, best first: ``("CUDAExecutionProvider", "CPUExecutionProvider")``.
        kernels: run the binary layers of a packed file with our kernels. Without them, or where the library was
            not built (one warning), or with ``XNORKIT_KERNEL=reference``, onnxruntime computes the same in
            standard operators, slower.

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
    return create_session(str(path), threads, providers, kernels=kernels)


def create_session(
    model: str | bytes, threads: int | None = None, providers: Sequence[str] = CPU, *, kernels: bool = False
) -> onnxruntime.InferenceSession:
    """A session for a file or for a model in memory. Raises ValueError where onnxruntime cannot run it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if kernels and os.environ.get("XNORKIT_KERNEL") != "reference":
        _register(options, model)
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # onnxruntime's exceptions have no common base
        name = "the exported graph" if isinstance(model, bytes) else repr(model)
        if uses_domain(model, QONNX):
            raise ValueError(
                f"onnxruntime cannot run {name}: it is a QONNX file, for FPGA flows; export format 'packed', "
                "'standard' or 'int8' for onnxruntime"
            ) from error
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"onnxruntime cannot run {name}; is it a whole ONNX file? {reason}") from error


def _register(options: onnxruntime.SessionOptions, model: str | bytes) -> None:
    if library.load() is not None:
        options.register_custom_ops_library(custom_ops_library())
    elif uses_domain(model, XNORKIT):
        _warn_once()


def uses_domain(model: str | bytes, domain: str) -> bool:
    """Whether an ONNX file, or one in memory, has operators of ``domain``; False for what is no ONNX file."""
    try:
        proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    except Exception:  # not an ONNX file: the session says so
        return False
    return any(opset.domain == domain for opset in proto.opset_import)


@functools.cache
def _warn_once() -> None:
    message = library.not_built("onnxruntime runs binary layers in standard operators")
    warnings.warn(message, RuntimeWarning, stacklevel=5)
