"""Bad input to export_onnx and ort_session: one clear message, and nothing half-written."""

import os

import pytest
import torch
from torch import nn

import quantize
from quantize import export_onnx, ort_session


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(4, 6)


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), quantize.BinaryConv2d(4, 4, 3))


IMAGE = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("example", "options", "error", "message"),
    [
        (IMAGE, {"format": "standart"}, ValueError, "unknown ONNX format 'standart': did you mean 'standard'"),
        (torch.zeros(2, 1, 8, 8), {}, ValueError, r"does not run on example_input, of shape \(2, 1, 8, 8\)"),
        (torch.zeros(2, 3, 2, 2), {}, ValueError, r"does not run on example_input, of shape \(2, 3, 2, 2\)"),
        ((IMAGE, IMAGE), {}, ValueError, r"does not run on example_input, of shape \(2, 3, 8, 8\), \(2, 3, 8, 8\)"),
        ((IMAGE, IMAGE[:1]), {}, ValueError, "one batch size"),
        (IMAGE[:0], {}, ValueError, "one batch size"),
        (torch.tensor(1.0), {}, ValueError, "one batch size"),
        (IMAGE.numpy(), {}, TypeError, "must be a tensor, or a tuple or dict of tensors; got ndarray"),
        ((IMAGE, 3), {}, TypeError, "got int"),
        (None, {}, TypeError, "got NoneType"),
        (torch.full((2, 3, 8, 8), torch.nan), {}, ValueError, "returns NaN"),
        (IMAGE, {"metadata": {"classes": {1, 2}}}, TypeError, "metadata 'classes' is neither text nor JSON"),
    ],
)
def test_export_refuses(net, example, options, error, message, tmp_path):
    if "NaN" in message:
        net = net[:1]  # the sign of NaN is -1
    with pytest.raises(error, match=message):
        export_onnx(net, tmp_path / "net.onnx", example, **options)
    assert not list(tmp_path.iterdir())


def test_a_batch_size_that_the_model_fixes(tmp_path):
    with pytest.raises(ValueError, match=r"not with a random batch of shape \(5, 6\): .* any batch size"):
        export_onnx(FixedBatch(), tmp_path / "net.onnx", torch.zeros(4, 6))
    assert not list(tmp_path.iterdir())


def test_a_model_that_depends_on_the_size_of_the_batch(tmp_path):
    class ByTheBatch(nn.Module):
        def forward(self, x):
            return x * 2 if len(x) == 4 else x * 3

    with pytest.raises(RuntimeError, match="with a dynamic batch|for a batch of 4 only"):
        export_onnx(ByTheBatch(), tmp_path / "net.onnx", torch.zeros(4, 6))
    assert not list(tmp_path.iterdir())


class Untranslatable(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)  # ONNX has no such operator


class DependsOnValues(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else x


@pytest.mark.parametrize("module", [Untranslatable(), DependsOnValues()], ids=lambda m: type(m).__name__)
def test_what_cannot_be_traced_is_named(module, tmp_path):
    layers = [nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential(nn.ReLU(), module), nn.Linear(4, 4)]
    binary = quantize.prepare(nn.Sequential(*layers), "xnor", torch.randn(2, 4))
    with pytest.raises(RuntimeError, match=r"cannot trace the model with a dynamic batch: in '2.1': \w+") as caught:
        export_onnx(binary, tmp_path / "net.onnx", torch.randn(2, 4))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_without_outputs(tmp_path):
    class Silent(nn.Module):
        def forward(self, x):
            return None

    with pytest.raises(ValueError, match="returns no tensor"):
        export_onnx(Silent(), tmp_path / "net.onnx", IMAGE)


def test_where_the_file_goes(net, tmp_path):
    with pytest.raises(FileNotFoundError, match="no directory .*missing' to write 'net.onnx' to; create it"):
        export_onnx(net, tmp_path / "missing" / "net.onnx", IMAGE)
    with pytest.raises(IsADirectoryError, match="is a directory; give the name of a file"):
        export_onnx(net, tmp_path, IMAGE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_to(net, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write to the directory"):
        export_onnx(net, tmp_path / "net.onnx", IMAGE)


def test_ort_session(net, tmp_path):
    path = tmp_path / "net.onnx"
    export_onnx(net, path, IMAGE)
    session = ort_session(path, threads=1)
    assert session.get_session_options().intra_op_num_threads == 1
    assert session.run(None, {"input": IMAGE.numpy()})[0].shape == (2, 4, 4, 4)
    with pytest.raises(FileNotFoundError, match="no ONNX file at .*none.onnx'"):
        ort_session(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        ort_session(path, threads=0)
    with pytest.raises(ValueError, match="no provider 'CPU' here: .*CPUExecutionProvider"):
        ort_session(path, providers=["CPU"])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot run .*net.onnx'; is it a whole ONNX file"):
        ort_session(path)
