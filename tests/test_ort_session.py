"""quantize.ort_session and quantize.custom_ops_library: whose kernels run."""

import warnings

import onnx
import pytest
import torch
from ort_models import Net, expected, random_conv, run

import quantize
from quantize.export import onnx_session as sessions
from quantize.kernels import cpu, library

pytestmark = pytest.mark.core

built = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")

# Not what BinaryConv computes, so that one sees whether it ran.
BODY = """
<domain: "xnorkit", opset_import: ["": 21]>
BinaryConv (x, weight_bits, scale, bias, threshold, turn) => (y) { y = Identity (x) }
"""


@pytest.fixture
def packed(tmp_path):
    """A file of one node with that body, its input, and what our kernel makes of it."""
    conv = random_conv("BinaryConv", (8, 8, 1, 1), torch.Generator().manual_seed(0))
    net, x = Net(8), torch.randn(2, 8, 5, 5)
    path = tmp_path / "net.onnx"
    onnx.save(net.model(net.conv("BinaryConv", "x", conv), [onnx.parser.parse_function(BODY)]), path)
    return path, x, expected("BinaryConv", conv, x)


@pytest.fixture
def not_built(monkeypatch):
    monkeypatch.setattr(library, "load", lambda: None)
    sessions._warn_once.cache_clear()
    yield
    sessions._warn_once.cache_clear()


@built
def test_our_kernels_run(packed):
    path, x, y = packed
    assert torch.equal(run(quantize.ort_session(path), x), y)
    assert torch.equal(run(quantize.ort_session(str(path), threads=2), x), y)


def test_kernels_left_out(packed, monkeypatch):
    path, x, _ = packed
    assert torch.equal(run(quantize.ort_session(path, kernels=False), x), x)
    monkeypatch.setenv("XNORKIT_KERNEL", "reference")
    assert torch.equal(run(quantize.ort_session(path), x), x)


@built
def test_the_library_is_what_onnxruntime_registers():
    path = quantize.custom_ops_library()
    assert isinstance(path, str)
    assert path == str(library.path())


def test_without_the_library_one_warning_and_the_standard_body(packed, not_built):
    path, x, _ = packed
    with pytest.warns(RuntimeWarning, match="was not built .*: onnxruntime runs binary layers in standard") as caught:
        session = quantize.ort_session(path)
    assert caught[0].filename == __file__
    assert torch.equal(run(session, x), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize.ort_session(path)
    with pytest.raises(FileNotFoundError, match="was not built .*: install g"):
        quantize.custom_ops_library()


def test_without_the_library_a_file_of_standard_operators_gives_no_warning(tmp_path, not_built):
    path = tmp_path / "net.onnx"
    quantize.export_onnx(torch.nn.Linear(4, 3), path, torch.randn(2, 4), format="standard")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize.ort_session(path)
    path.write_bytes(b"no model")
    with pytest.raises(ValueError, match="is it a whole ONNX file"):
        quantize.ort_session(path)
