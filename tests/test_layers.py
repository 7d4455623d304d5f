"""Binary layers do with signs what the float layers do with numbers: every option, shape and dtype."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize
from quantize.binary.layers import FLOAT_CLASSES, binary_class

DIMS = {"Conv1d": 1, "Conv2d": 2, "Conv3d": 3, "ConvTranspose1d": 1, "ConvTranspose2d": 2, "ConvTranspose3d": 3}


def sign(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def binarized(layer: nn.Module, scheme: str = "bnn") -> nn.Module:
    """The layer with a scheme, compared with 0: no example, no threshold."""
    model = quantize.prepare(nn.Sequential(layer), scheme, keep_float=())
    model[0].threshold, model[0].threshold_pending = None, False
    return model[0]


def with_signs(layer: nn.Module, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """The float layer on sign(x), with sign(weight)."""
    return torch.func.functional_call(layer, {"weight": sign(layer.weight)}, (sign(x), *args), kwargs)


CONV_OPTIONS = [
    {"padding": 1},
    {"padding": (2, 1), "stride": (1, 2)},
    {"dilation": 2, "padding": 2, "groups": 2},
    {"padding": "same", "dilation": (1, 2)},
    {"padding": "valid"},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "reflect", "stride": 2},
    {"padding": 2, "padding_mode": "replicate", "groups": 4, "bias": False},
    {"padding": (1, 2), "padding_mode": "circular"},
]


@pytest.mark.parametrize("options", CONV_OPTIONS, ids=str)
def test_convolution_options(options):
    layer = nn.Conv2d(4, 8, 3, **options)
    x = torch.randn(2, 4, 7, 6)
    torch.testing.assert_close(binarized(layer)(x), with_signs(layer, x))


def test_zero_padding_contributes_nothing():
    """All signs +1: an output counts the taps that lie inside, 2 x 3 channels in a corner of 2 x 2."""
    layer = binarized(nn.Conv2d(3, 1, 3, padding=1, bias=False))
    nn.init.constant_(layer.weight, 0.0)
    taps = layer(torch.zeros(1, 3, 4, 4))[0, 0]
    assert taps.tolist() == [[12, 18, 18, 12], [18, 27, 27, 18], [18, 27, 27, 18], [12, 18, 18, 12]]


@pytest.mark.parametrize("kind", DIMS)
def test_unbatched_input(kind):
    layer = binarized(getattr(nn, kind)(4, 6, 3, groups=2), "xnor:input_scale=true").eval()
    x = torch.randn(4, *(5,) * DIMS[kind])
    torch.testing.assert_close(layer(x), layer(x[None])[0])


def test_unbatched_linear_input():
    layer = binarized(nn.Linear(5, 3), "xnor:input_scale=true")
    x = torch.randn(5)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


@pytest.mark.parametrize("kind", [k for k in DIMS if "Transpose" in k])
@pytest.mark.parametrize("scheme", ["bnn", "xnor:input_scale=true"])
def test_output_size_by_position_and_by_keyword(kind, scheme):
    float_layer = getattr(nn, kind)(4, 6, 3, stride=2, groups=2)
    layer = binarized(float_layer, scheme)
    x, size = torch.randn(2, 4, *(4,) * DIMS[kind]), (10,) * DIMS[kind]
    y = layer(x, output_size=size)
    assert y.shape == (2, 6, *size)
    assert torch.equal(y, layer(x, size))
    assert layer(x).shape[2:] == (9,) * DIMS[kind]
    if scheme == "bnn":
        torch.testing.assert_close(y, with_signs(float_layer, x, output_size=size))


def test_the_input_may_be_a_keyword():
    layer, x = binarized(nn.Conv2d(3, 4, 3)), torch.randn(1, 3, 5, 5)
    assert torch.equal(layer(input=x), layer(x))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Linear(5, 2)], ids=["conv", "linear"])
def test_only_transposed_convolutions_take_an_output_size(layer):
    with pytest.raises(TypeError):
        binarized(layer)(torch.randn(1, 3, 5, 5), output_size=(3, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_dtype(scheme, dtype):
    x = torch.randn(2, 8, 6, 6, dtype=dtype)
    model = quantize.prepare(nn.Sequential(nn.Conv2d(8, 4, 3, dtype=dtype)), scheme, x, keep_float=())
    quantize.set_progress(model, 0.5)
    y = model(x)
    y.sum().backward()
    assert y.dtype == model[0].weight.dtype == model[0].weight.grad.dtype == dtype
    single = model.float()(x.float())
    # dorefa's levels of an input near a rounding boundary may differ by one.
    torch.testing.assert_close(y.float(), single, rtol=0.05, atol=0.05 * single.abs().max().item())


@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_autocast(scheme):
    x = torch.randn(2, 8, 6, 6)
    model = quantize.prepare(nn.Sequential(nn.Conv2d(8, 4, 3)), scheme, x, keep_float=())
    quantize.set_progress(model, 0.5)
    for training in (True, False):
        model.train(training).zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        y.float().sum().backward()
        assert model[0].weight.dtype == model[0].weight.grad.dtype == torch.float32
        expected = model(x)
        torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_autocast_computes_in_low_precision():
    layer = binarized(nn.Conv2d(8, 4, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 8, 6, 6)).dtype == torch.bfloat16


@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_compile_as_one_graph(scheme):
    torch.compiler.reset()
    layers = [nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.Flatten(), nn.Linear(4 * 25, 3)]
    x = torch.randn(2, 3, 5, 5)
    model = quantize.prepare(nn.Sequential(*layers), scheme, x, keep_float=())
    quantize.set_progress(model, 0.5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    gradients = []
    for call in (model, compiled):
        model.zero_grad()
        y = call(x)
        y.square().sum().backward()
        gradients.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    for eager, graph in zip(*gradients, strict=True):
        torch.testing.assert_close(graph, eager)


def test_a_compiled_model_settles_its_thresholds():
    torch.compiler.reset()
    model = quantize.prepare(nn.Sequential(nn.Linear(4, 3)), "xnor", keep_float=())
    x = torch.rand(5, 4)
    torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(model[0].threshold, nn.Parameter(x.mean(0)))
    assert not model[0].threshold_pending


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("scheme", quantize.list_schemes())
def test_cuda(scheme):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 2)).cuda()
    x = torch.randn(2, 3, 6, 6).cuda()
    prepared = quantize.prepare(model, scheme, x).eval()
    assert {p.device.type for p in [*prepared.parameters(), *prepared.buffers()]} == {"cuda"}
    torch.testing.assert_close(prepared(x).cpu(), prepared.cpu()(x.cpu()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("binary", FLOAT_CLASSES, ids=lambda c: c.__name__)
def test_a_layer_made_directly_equals_a_prepared_one(binary):
    floating = FLOAT_CLASSES[binary]
    args = (4, 6) if floating is nn.Linear else (4, 6, 3)
    layer = binary(*args, scheme="bnn", threshold=True)
    assert isinstance(layer, floating)
    assert layer.threshold.tolist() == [0] * 4
    twin = binarized(floating(*args))
    missing, unexpected = twin.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "threshold"})
    assert not missing
    assert not unexpected
    x = torch.randn(2, 4) if floating is nn.Linear else torch.randn(2, 4, *(5,) * DIMS[floating.__name__])
    assert torch.equal(layer(x), twin(x))
    assert type(quantize.restore(nn.Sequential(layer))[0]) is floating


def test_a_subclass_of_a_binary_layer_is_one():
    class Mine(quantize.BinaryConv2d):
        pass

    layer, x = Mine(4, 6, 3, scheme="bnn"), torch.randn(2, 4, 5, 5)
    assert torch.equal(layer(x), F.conv2d(sign(x), sign(layer.weight), layer.bias))
    assert type(quantize.restore(layer)) is nn.Conv2d


def test_evaluation_gives_exact_integers_before_the_scale():
    layer = binarized(nn.Conv2d(64, 8, 3, padding=1, bias=False), "xnor").eval()
    x = torch.randn(2, 64, 6, 6)
    values, scale = layer.quantized_weight()
    integers = F.conv2d(sign(x).double(), values.double(), padding=1)
    assert torch.equal(layer(x), integers.float() * scale.reshape(1, -1, 1, 1))


def test_repr_shows_scheme_and_threshold():
    layer = quantize.BinaryConv2d(3, 4, 3, padding=1, scheme="xnor:center=false", threshold=True)
    assert repr(layer) == (
        "BinaryConv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), "
        "scheme='xnor:center=False', threshold=True)"
    )
    pending = quantize.prepare(nn.Sequential(nn.Linear(3, 2)), "bnn", keep_float=())[0]
    assert "threshold=pending" in repr(pending)


def test_nothing_binary_for_other_modules():
    assert binary_class(nn.BatchNorm2d(3)) is None
    assert binary_class(nn.Embedding(3, 3)) is None


def test_layers_run_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        binarized(nn.Conv2d(3, 4, 3, padding="same"), "xnor")(torch.randn(1, 3, 5, 5))
