"""export_onnx: what the file computes in each format, against numpy and plain float layers, in every runtime."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx_runs import export_standard as export_onnx
from onnx_runs import onnxruntime_outputs, runtimes
from scheme_formulas import FORMULAS, State
from torch import nn

import quantize
from quantize.export.formats import FORMATS

KINDS = {
    "linear": (lambda **k: quantize.BinaryLinear(12, 7, **k), (12,)),
    "linear_tokens": (lambda **k: quantize.BinaryLinear(12, 7, **k), (5, 12)),
    "conv1d_dilated": (lambda **k: quantize.BinaryConv1d(4, 6, 3, dilation=2, padding=2, **k), (4, 9)),
    "conv2d_same": (lambda **k: quantize.BinaryConv2d(4, 6, 3, padding="same", **k), (4, 6, 5)),
    "conv2d_strided": (lambda **k: quantize.BinaryConv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), **k), (4, 7, 6)),
    "conv2d_groups": (lambda **k: quantize.BinaryConv2d(4, 8, 3, padding=1, groups=2, **k), (4, 6, 5)),
    "conv2d_depthwise": (lambda **k: quantize.BinaryConv2d(4, 8, 3, groups=4, **k), (4, 6, 5)),
    "conv2d_reflect": (lambda **k: quantize.BinaryConv2d(4, 6, 3, padding=1, padding_mode="reflect", **k), (4, 6, 5)),
    "conv2d_replicate": (
        lambda **k: quantize.BinaryConv2d(4, 6, 3, padding=1, padding_mode="replicate", **k),
        (4, 6, 5),
    ),
    "conv2d_circular": (lambda **k: quantize.BinaryConv2d(4, 6, 3, padding=1, padding_mode="circular", **k), (4, 6, 5)),
    "conv3d": (lambda **k: quantize.BinaryConv3d(3, 4, 2, padding=1, **k), (3, 4, 4, 3)),
    "transpose1d": (lambda **k: quantize.BinaryConvTranspose1d(4, 6, 3, stride=2, **k), (4, 5)),
    "transpose2d_groups": (
        lambda **k: quantize.BinaryConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, **k),
        (4, 4, 3),
    ),
    "transpose3d": (lambda **k: quantize.BinaryConvTranspose3d(2, 3, 2, **k), (2, 3, 3, 2)),
}


UNPACKED = [name for name in FORMATS if name != "packed"]  # it has a file of its own
SIGNED = [name for name in quantize.list_schemes() if quantize.get_scheme(name).signed_input]


def sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0).double()


def with_zeros(*shape: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape) / 2


@pytest.mark.parametrize("format", UNPACKED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_is_its_float_layer_on_signs(kind, format, tmp_path):
    build, shape = KINDS[kind]
    bias = kind not in ("linear", "conv2d_groups")
    layer = build(scheme="bnn", threshold=True, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(with_zeros(*layer.weight.shape))
        layer.threshold.copy_(with_zeros(len(layer.threshold)))
    export_onnx(layer, tmp_path / "net.onnx", with_zeros(1, *shape), format=format)

    x = with_zeros(3, *shape)
    twin = quantize.restore(layer).double()
    twin.weight.data = sign(layer.weight)
    expected = twin(sign(x - layer.per_channel(layer.threshold))).detach().numpy()
    for name, run in runtimes(format).items():
        if (name, kind) != ("reference", "transpose2d_groups"):  # it has no transposed convolution with groups
            outputs = run(tmp_path / "net.onnx", x)
            np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=1e-6 if bias else 0)


def skip_unless_known(spec: str, format: str) -> None:
    """QONNX's operators know signs and levels in 0 to 1; test_export_qonnx.py tests the refusal of other inputs."""
    if format == "qonnx" and quantize.get_scheme(spec).input_bits is None:
        pytest.skip(f"format qonnx has no form of the inputs of {spec}")


@pytest.mark.parametrize("format", ["standard", "qonnx"])
@pytest.mark.parametrize("spec", [spec for spec in FORMULAS if "spatial" not in spec])
def test_every_scheme_is_its_formula(spec, format, tmp_path):
    skip_unless_known(spec, format)
    layer = quantize.BinaryLinear(31, 8, scheme=spec, threshold=quantize.get_scheme(spec).signed_input)
    learned = getattr(layer, "gamma", None)
    with torch.no_grad():
        layer.weight.mul_(4)
        for parameter in (layer.threshold, learned):
            if parameter is not None:
                parameter.uniform_(0.1, 0.5)
    export_onnx(layer, tmp_path / "net.onnx", torch.randn(2, 31), format=format)

    formula, x = FORMULAS[spec], torch.randn(5, 31)
    inputs = x.double().numpy()
    if layer.threshold is not None:
        inputs = inputs - layer.threshold.detach().double().numpy()
    state = State(scale=None if learned is None else learned.detach().double().numpy())
    weight = formula.weight(layer.weight.detach().double().numpy(), state)
    expected = formula.input(inputs) @ weight.T
    if formula.output_scale == "window mean":
        expected = expected * np.abs(inputs).mean(1, keepdims=True)
    expected = expected + layer.bias.detach().double().numpy()
    for outputs in (run(tmp_path / "net.onnx", x) for run in runtimes(format).values()):
        np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("format", UNPACKED)
@pytest.mark.parametrize("name", quantize.list_schemes())
def test_the_file_and_the_model_agree_in_every_runtime(name, format, tmp_path):
    skip_unless_known(name, format)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        quantize.BinaryConv2d(8, 8, 3, padding=1, scheme=name, threshold=quantize.get_scheme(name).signed_input),
        nn.BatchNorm2d(8),
        quantize.BinaryConv2d(8, 6, 3, scheme=name, groups=2),
    )
    report = export_onnx(net, tmp_path / "net.onnx", torch.randn(1, 3, 6, 6), format=format)
    assert report.parity.difference <= 1e-5

    x = torch.randn(3, 3, 6, 6)
    expected = net.eval()(x).detach().numpy()
    for outputs in (run(tmp_path / "net.onnx", x) for run in runtimes(format).values()):
        np.testing.assert_allclose(outputs[0], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "format"), [(n, "standard") for n in SIGNED] + [("recu", f) for f in FORMATS if f != "standard"]
)
@pytest.mark.parametrize("between", [nn.Identity, lambda: nn.BatchNorm2d(16)])
def test_sums_stay_whole_numbers_inside_the_runtime(name, between, format, tmp_path):
    """A sum of 0 is frequent here, and its sign is +1: onnxruntime must not fold a scale into the weights."""
    first = quantize.BinaryConv2d(16, 16, 3, padding=1, scheme=name, bias=False)
    second = quantize.BinaryConv2d(16, 16, 3, padding=1, scheme="bnn", bias=False)
    net = nn.Sequential(first, between(), second).eval()
    x = torch.randn(4, 16, 8, 8)
    export_onnx(net, tmp_path / "net.onnx", x, format=format, check=False)

    values, _ = first.quantized_weight()
    sums = nn.functional.conv2d(sign(x), values.double(), padding=1)
    assert (sums == 0).float().mean() > 0.03  # else this test tests nothing
    expected = nn.functional.conv2d(sign(sums), sign(second.weight), padding=1).detach().numpy()
    for run in runtimes(format).values():
        np.testing.assert_array_equal(run(tmp_path / "net.onnx", x)[0], expected)


def test_several_inputs_and_outputs(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = quantize.BinaryLinear(6, 6), nn.Linear(6, 4)

        def forward(self, x, y):
            hidden = self.a(input=x) + y
            return {"sum": hidden, "none": None, "top": self.b(hidden)}

    net = Net()
    x, y = torch.randn(3, 6), torch.randn(3, 6)
    expected = [value.detach().numpy() for value in net(x, y).values() if value is not None]
    for example, names in (((x, y), ["input_0", "input_1"]), ({"x": x, "y": y}, ["x", "y"])):
        export_onnx(net, tmp_path / "net.onnx", example)
        graph = onnx.load(tmp_path / "net.onnx").graph
        assert [value.name for value in graph.input] == names
        assert [value.name for value in graph.output] == ["output_0", "output_1"]
        for outputs in (run(tmp_path / "net.onnx", x, y) for run in runtimes("standard").values()):
            for found, wanted in zip(outputs, expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_integer_inputs(tmp_path):
    net = nn.Sequential(nn.Embedding(5, 8), quantize.BinaryLinear(8, 4))
    export_onnx(net, tmp_path / "net.onnx", torch.tensor([[0, 4, 2]]))
    tokens = torch.randint(5, (4, 3))
    np.testing.assert_allclose(
        onnxruntime_outputs(tmp_path / "net.onnx", tokens)[0], net(tokens).detach().numpy(), rtol=1e-5, atol=1e-5
    )


def test_the_model_is_left_as_it_is(tmp_path):
    net = nn.Sequential(nn.Linear(6, 6), nn.Dropout(), quantize.BinaryLinear(6, 6), nn.BatchNorm1d(6))
    calls = []
    net[2].register_forward_hook(lambda *_: calls.append(1))
    net[1].eval()
    state, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    layers, random_state = [type(layer) for layer in net], torch.get_rng_state()
    export_onnx(net, tmp_path / "net.onnx", torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert list(net.state_dict()) == list(state)
    assert [module.training for module in net.modules()] == modes
    assert [type(layer) for layer in net] == layers
    assert len(net[2]._forward_hooks) == 1
    assert not net[2]._forward_pre_hooks
    assert not net._forward_hooks
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrapped_models(wrap, tmp_path):
    net = nn.Sequential(nn.Linear(6, 6), quantize.BinaryLinear(6, 3))
    export_onnx(wrap(net), tmp_path / "net.onnx", torch.randn(2, 6))
    assert "1.weight_bits" in [tensor.name for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer]


def test_half_precision_and_inference_mode(tmp_path):
    net = nn.Sequential(nn.Linear(6, 6), quantize.BinaryLinear(6, 3)).half()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 6).half())
    x = torch.randn(3, 6)
    expected = net.float()(x).detach().numpy()
    np.testing.assert_allclose(onnxruntime_outputs(tmp_path / "net.onnx", x)[0], expected, rtol=1e-5, atol=1e-5)
