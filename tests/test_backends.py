"""Every backend has the operations of its protocol, with the same parameters."""

import importlib
import inspect

import pytest

from quantize.kernels import Backend, TrainingBackend

MODULES = {
    Backend: ("reference", "cpu", "cuda"),
    TrainingBackend: ("cpu_signs", "cuda.signs"),
}


def operations(protocol: type) -> dict[str, inspect.Signature]:
    functions = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value)}
    return {name: inspect.signature(value) for name, value in functions.items() if not name.startswith("_")}


@pytest.mark.parametrize(
    ("protocol", "module"),
    [(protocol, module) for protocol, modules in MODULES.items() for module in modules],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_backend_is_what_its_protocol_says(protocol, module):
    if module.startswith("cuda"):
        pytest.importorskip("triton")
    backend = importlib.import_module(f"quantize.kernels.{module}")
    assert len(operations(protocol)) >= 7
    for name, expected in operations(protocol).items():
        found = inspect.signature(getattr(backend, name))
        wanted = list(expected.parameters.values())[1:]  # but for self
        own = list(found.parameters.values())
        assert own[: len(wanted)] == wanted, name
        assert all(more.default is not more.empty for more in own[len(wanted) :]), name
        assert found.return_annotation == expected.return_annotation, name
