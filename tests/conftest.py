"""What tests share: one thread, since they run in parallel, a fixed random stream, and a place for what people call."""

import functools

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _operators_are_read_once():
    """For each file torch.onnx reads its operators from source, and torch.export looks through all of torch's: more
    than half of the time that the export of a small network takes.
    """
    try:
        from torch.export import exported_program
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        look_through = exported_program._collect_all_valid_cia_ops
    except (ImportError, AttributeError):  # private places, which another version may not have
        yield
        return
    found = functools.cache(lambda count: look_through())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        registered = torch._C._dispatch_get_all_op_names
        patch.setattr(exported_program, "_collect_all_valid_cia_ops", lambda: found(len(registered())))
        yield


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Decoded folders are kept for one run of the tests, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XNORKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def empty_directory(tmp_path, monkeypatch):
    """The current one, on a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
