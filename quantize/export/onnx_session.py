"""Who runs a file: onnxruntime, with the kernels of our library, or the executor of the package ``qonnx``."""

import contextlib
import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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


def executor_missing() -> str:
    """Why a file cannot be run here: the package ``qonnx`` is not installed; "" where it is."""
    found = importlib.util.find_spec("qonnx") is not None
    return "" if found else "the package qonnx, which runs QONNX files, is not installed: pip install qonnx"


class QonnxSession:
    """A QONNX file in the executor of the package ``qonnx``, with the methods of an onnxruntime session.

    It runs node by node and is slow. Raises ImportError where ``qonnx`` is not installed.
    """

    def __init__(self, model: str | bytes):
        import qonnx  # noqa: F401  here, and again where it runs: writing files does not need it

        self.model = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)

    def get_inputs(self) -> list[SimpleNamespace]:
        return [_described(value) for value in self.model.graph.input]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [_described(value) for value in self.model.graph.output]

    def get_modelmeta(self) -> SimpleNamespace:
        return SimpleNamespace(custom_metadata_map={entry.key: entry.value for entry in self.model.metadata_props})

    def run(self, names: Sequence[str] | None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names, all where that is None, for these inputs."""
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.transformation.infer_shapes import InferShapes

        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        del model.graph.value_info[:]  # the executor wants every size in numbers
        for value in model.graph.input:
            _set_shape(value, feeds[value.name].shape)
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        wrapped = ModelWrapper(model).transform(InferShapes())
        with _one_node_models_of(model.ir_version), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that it could not infer beforehand
            results = execute_onnx(wrapped, feeds)
        return [results[name] for name in names or [value.name for value in model.graph.output]]


@contextlib.contextmanager
def _one_node_models_of(ir_version: int) -> Iterator[None]:
    """The executor makes a model of every node, in the newest version that onnx has and onnxruntime may not know."""
    from qonnx.core import onnx_exec

    make_model = onnx_exec.qonnx_make_model
    onnx_exec.qonnx_make_model = functools.partial(make_model, ir_version=ir_version)
    try:
        yield
    finally:
        onnx_exec.qonnx_make_model = make_model


def _described(value: onnx.ValueInfoProto) -> SimpleNamespace:
    """As onnxruntime describes it: name, type, and shape with the names of sizes that are open."""
    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]
    return SimpleNamespace(name=value.name, type=f"tensor({dtype})", shape=shape)


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = size
