"""Layers of several bits on bits, plane by plane: against the formula in float64, and in every state of a layer."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize
from quantize import kernels
from quantize.packed.codes.expanded import ExpandedLayer

pytestmark = pytest.mark.core

LAYERS = {
    "conv": (lambda: nn.Conv2d(10, 12, 3, padding=1), (2, 10, 9, 7)),
    "groups": (lambda: nn.Conv2d(12, 18, (3, 2), stride=2, padding=(2, 1), dilation=(1, 2), groups=3), (2, 12, 9, 8)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding="same", groups=6), (1, 6, 5, 8)),
    "no border": (lambda: nn.Conv2d(70, 9, 3, bias=False), (3, 70, 6, 5)),
    "conv1d": (lambda: nn.Conv1d(10, 12, 3, padding=2, stride=2), (2, 10, 9)),
    "linear": (lambda: nn.Linear(70, 11), (5, 3, 70)),
    "one image": (lambda: nn.Conv2d(10, 12, 3, padding=1), (10, 9, 7)),
    "one row": (lambda: nn.Linear(70, 11), (70,)),
}
BITS = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (1, 4), (4, 2)]
NATIVE = [name for name in kernels.available_kernels() if name != "reference"]

needs_library = pytest.mark.skipif(not NATIVE, reason="the native library is not built")


def converted(name: str, scheme: str):
    """(the prepared model, the converted one, an input with values on and outside the bounds of 0 to 1)."""
    build, shape = LAYERS[name]
    x = torch.rand(shape) * 1.4 - 0.2
    prepared = quantize.prepare(nn.Sequential(build()), scheme, x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    packed(x)  # which layers compute how is found at their first call
    return prepared, packed, x


def on_bits(model: nn.Module) -> bool:
    """Whether the only layer that stores codes has computed plane by plane."""
    (layer,) = (module for module in model.modules() if isinstance(module, ExpandedLayer))
    return layer._on_bits.form is not None


def formula(layer: quantize.BinaryLayer, x: torch.Tensor, bits: int) -> torch.Tensor:
    """The layer in float64, from the definition of its input and from its quantized weight."""
    largest = 2**bits - 1
    q = (x.clamp(0, 1) * largest).round().double() / largest  # rounded as float32 says it, computed with as float64
    values, scale = (part if part is None else part.double() for part in layer.quantized_weight())
    weight = layer.from_filters(values if scale is None else values * scale)
    bias = None if layer.bias is None else layer.bias.double()
    if not layer.kernel_size:
        return F.linear(q, weight, bias)
    convolve = (F.conv1d, F.conv2d)[len(layer.kernel_size) - 1]
    return convolve(q, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@needs_library
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("w_bits", "a_bits"), BITS)
def test_planes_compute_the_formula(name, w_bits, a_bits):
    prepared, packed, x = converted(name, f"dorefa:w_bits={w_bits},a_bits={a_bits}")
    expected = formula(prepared[0], x, a_bits)
    assert on_bits(packed)
    torch.testing.assert_close(packed(x).double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(packed(x), prepared(x), rtol=1e-4, atol=1e-5)


@needs_library
@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("name", ["conv", "groups", "linear"])
def test_every_kernel(name, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    prepared, packed, x = converted(name, "dorefa:w_bits=2,a_bits=2")
    assert kernels.kernel_name(packed[0]._on_bits.form.planes.weights) == kernel
    torch.testing.assert_close(packed(x).double(), formula(prepared[0], x, 2), rtol=1e-6, atol=1e-6)


def test_the_reference_expands(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "reference")
    prepared, packed, x = converted("conv", "dorefa")
    assert not on_bits(packed)
    torch.testing.assert_close(packed(x), prepared(x))


@needs_library
@pytest.mark.parametrize("name", ["conv", "conv1d", "groups"])
def test_signs_with_a_scale_of_the_output(name):
    """xnorpp:spatial=true multiplies by scales of rows and columns, which the kernels do not know."""
    prepared, packed, x = converted(name, "xnorpp:spatial=true")
    assert on_bits(packed)
    torch.testing.assert_close(packed(x), prepared(x))


@pytest.mark.parametrize(
    ("layer", "shape", "scheme"),
    [
        (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (1, 4, 6, 6), "dorefa"),
        (nn.ConvTranspose2d(4, 6, 3, dilation=2), (1, 4, 6, 6), "dorefa"),
        (nn.ConvTranspose3d(4, 6, 3), (1, 4, 5, 5, 5), "xnor"),
        (nn.Conv3d(4, 6, 3, padding=1, padding_mode="circular"), (1, 4, 5, 5, 5), "xnor"),
        (
            nn.Conv2d(4, 6, 3),
            (1, 4, 6, 6),
            "dorefa:w_bits=4,a_bits=4",
        ),  # 16 convolutions take longer than one of floats
        (nn.Conv2d(4, 6, 3), (1, 4, 6, 6), "dorefa:w_bits=1,a_bits=8"),
        (nn.Conv2d(4, 6, 3), (1, 4, 6, 6), "dorefa:w_bits=1,a_bits=32"),
    ],
)
def test_what_expands(layer, shape, scheme):
    x = torch.rand(shape)
    prepared = quantize.prepare(nn.Sequential(layer), scheme, x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    found = packed(x)
    assert not on_bits(packed)
    torch.testing.assert_close(found, prepared(x))


def agrees(layer: nn.Module, shape: tuple[int, ...], scheme: str) -> None:
    """A converted layer gives what the prepared one gives, and computes on bits."""
    x = torch.rand(shape) * 1.4 - 0.2
    prepared = quantize.prepare(nn.Sequential(layer), scheme, x, keep_float=()).eval()
    packed = quantize.convert(prepared, x, check=False)
    torch.testing.assert_close(packed(x), prepared(x), rtol=1e-4, atol=1e-5)
    assert on_bits(packed)


@needs_library
@pytest.mark.parametrize("scheme", ["xnor", "dorefa:w_bits=2,a_bits=2"])
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 3)])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, (4, 1)])
def test_transposed_convolutions(kernel, stride, scheme):
    """Taps and strides that divide each other and that do not, down to fewer taps than the stride."""
    options = {"groups": 2, "stride": stride}
    largest = stride if isinstance(stride, int) else min(stride)
    for padding, more in itertools.product(range(min(3, torch.tensor(kernel).min())), range(largest)):
        layer = nn.ConvTranspose2d(4, 6, kernel, padding=padding, output_padding=more, **options)
        agrees(layer, (2, 4, 4, 5), scheme)


@needs_library
@pytest.mark.parametrize("scheme", ["xnor", "bireal", "dorefa"])
def test_transposed_convolutions_of_one_dimension(scheme):
    for shape in ((2, 5, 7), (5, 1)):
        agrees(nn.ConvTranspose1d(5, 6, 4, stride=2, padding=1), shape, scheme)


@needs_library
@pytest.mark.parametrize("scheme", ["xnor", "dorefa:w_bits=2,a_bits=2"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (2, 3, 1), "stride": (2, 1, 3), "padding": (1, 2, 0)},
        {"kernel_size": 3, "dilation": (2, 1, 2), "padding": (3, 0, 2), "groups": 2},
        {"kernel_size": (4, 2, 2), "padding": "same"},
        {"kernel_size": (1, 3, 3), "stride": 2, "bias": False},
        {"kernel_size": (5, 1, 1), "stride": (3, 1, 1), "padding": (4, 0, 0)},
    ],
    ids=str,
)
def test_convolutions_of_three_dimensions(options, scheme):
    agrees(nn.Conv3d(4, 6, **options), (2, 4, 6, 7, 6), scheme)
    agrees(nn.Conv3d(4, 6, **options), (4, 5, 6, 6), scheme)


@needs_library
def test_a_transposed_convolution_to_a_size_expands():
    """An output_size may have another one each time."""
    x = torch.rand(1, 4, 5, 5)
    prepared = quantize.prepare(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2)), "xnor", x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    for size in ((11, 11), (12, 11)):
        torch.testing.assert_close(packed[0](x, output_size=size), prepared[0](x, output_size=size))


@needs_library
def test_another_size_has_another_border():
    prepared, packed, x = converted("conv", "dorefa")
    for size in ((5, 6), (9, 7), (3, 3), (9, 7)):
        image = torch.rand(1, 10, *size)
        torch.testing.assert_close(packed(image), prepared(image), rtol=1e-4, atol=1e-5)


@needs_library
def test_channels_last_stays_so():
    prepared, packed, x = converted("conv", "dorefa:w_bits=2,a_bits=2")
    x = x.contiguous(memory_format=torch.channels_last)
    y = packed(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, prepared(x), rtol=1e-4, atol=1e-5)
    strided = torch.rand(2, 10, 18, 7)[:, :, ::2]
    torch.testing.assert_close(packed(strided), prepared(strided), rtol=1e-4, atol=1e-5)


@needs_library
def test_a_loaded_state_is_computed_with():
    """The codes change in their place; what was made of them must not stay."""
    _, first, x = converted("conv", "dorefa")
    torch.manual_seed(5)
    _, second, _ = converted("conv", "dorefa")
    expected = second(x)
    assert not torch.allclose(first(x), expected)
    first.load_state_dict(second.state_dict())
    torch.testing.assert_close(first(x), expected)


@needs_library
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.to("cpu")])
def test_copies_compute_the_same(copied):
    _, packed, x = converted("conv", "dorefa")
    expected = packed(x)
    again = copied(packed)
    assert torch.equal(again(x), expected)
    assert on_bits(again)


@needs_library
def test_nothing_of_it_is_stored():
    _, packed, x = converted("conv", "dorefa")
    state = {name: value.clone() for name, value in packed.state_dict().items()}
    packed(x)
    assert packed.state_dict().keys() == state.keys()
    assert sum(value.nbytes for value in state.values()) < 12 * 10 * 9 // 8 + 400


def test_no_sample_and_no_row():
    for name, shape in (("conv", (0, 10, 9, 7)), ("linear", (0, 70))):
        prepared, packed, _ = converted(name, "dorefa")
        assert packed(torch.zeros(shape)).shape == prepared(torch.zeros(shape)).shape


@needs_library
def test_a_trace_holds_plain_operations():
    prepared, packed, x = converted("conv", "dorefa")
    traced = torch.jit.trace(packed, x)
    torch.testing.assert_close(traced(x), prepared(x))


@needs_library
def test_a_gradient_is_refused():
    _, packed, x = converted("conv", "dorefa")
    with pytest.raises(RuntimeError, match="no gradient"):
        packed(x.requires_grad_())


@needs_library
@pytest.mark.parametrize(
    ("scheme", "note"), [("dorefa", "on bits, plane by plane"), ("bwn", "expands its weight at each call")]
)
def test_the_report_says_how_it_computes(scheme, note):
    _, packed, _ = converted("conv", scheme)
    (row,) = quantize.conversion_report(packed)
    assert note in row.note


def test_a_network_of_such_layers():
    """Batch norms and further layers of levels behind them: what convert compares has to agree to the end."""
    x = torch.randn(4, 3, 16, 16)
    blocks = itertools.chain.from_iterable(
        (nn.Conv2d(i, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for i in (3, 16, 16, 16)
    )
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(16 * 16 * 16, 5))
    prepared = quantize.prepare(model, "dorefa", x)
    prepared(x)
    packed = quantize.convert(prepared.eval(), x)
    torch.testing.assert_close(packed(x), prepared(x), rtol=0.05, atol=0.05)


@needs_library
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scheme", ["dorefa", "dorefa:w_bits=2,a_bits=3", "dorefa:w_bits=1,a_bits=1"])
def test_again_and_again_it_is_one_call(name, scheme):
    """The numbers of the call are those of the planes, convolved and added up one by one, to the last bit."""
    prepared, packed, x = converted(name, scheme)
    layer = packed[0]
    first = packed(x)
    assert layer.bound is not None
    assert torch.equal(packed(x), first)
    held = layer._on_bits
    y, scale = held.compute(layer, x), layer.weight_scale
    y = y if scale is None else y * layer.per_channel(scale)
    assert torch.equal(y if layer.bias is None else y + layer.per_channel(layer.bias), first)
    assert first.stride() == prepared(x).stride()


@needs_library
@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("name", ["conv", "groups", "linear"])
def test_every_kernel_in_one_call(name, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    prepared, packed, x = converted(name, "dorefa:w_bits=2,a_bits=2")
    for _ in range(3):
        x = x.roll(1, -1)
        torch.testing.assert_close(packed(x).double(), formula(prepared[0], x, 2), rtol=1e-6, atol=1e-6)
    assert packed[0].bound is not None


@needs_library
def test_what_a_call_is_bound_to_changes():
    prepared, packed, x = converted("conv", "dorefa")
    y, layer = packed(x), packed[0]
    assert layer.bound is not None
    lent = torch.func.functional_call(packed, {"0.bias": layer.bias + 1}, (x,))
    torch.testing.assert_close(lent, y + 1)
    with torch.no_grad():
        layer.bias += 2  # in place: the memory that it was bound to
    torch.testing.assert_close(packed(x), y + 2)
    layer.weight_scale = layer.weight_scale * 2
    bias = layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(packed(x), (y + 2 - bias) * 2 + bias)
    assert copy.deepcopy(packed)[0].bound is None
    with pytest.raises(RuntimeError, match="no gradient"):
        packed(x.clone().requires_grad_())


@needs_library
def test_scales_that_do_not_lie_one_by_one():
    """Lent ones may have gaps between them: that takes more than the library."""
    _, packed, x = converted("conv", "dorefa:w_bits=1,a_bits=3")
    expected = packed(x)
    gaps = packed[0].bias.detach().repeat_interleave(2)[::2]
    assert not gaps.is_contiguous()
    assert torch.equal(torch.func.functional_call(packed, {"0.bias": gaps}, (x,)), expected)


@needs_library
def test_thresholds_and_scales_of_outputs_are_not_bound():
    for scheme in ("xnorpp:spatial=true", "xnor:input_scale=True"):
        prepared, packed, x = converted("conv", scheme)
        for _ in range(3):
            torch.testing.assert_close(packed(x), prepared(x))
        assert packed[0].bound is None or not isinstance(packed[0], ExpandedLayer)


@needs_library
def test_one_number_that_is_none():
    """NaN becomes 0, as where an input of several bits is rounded, and infinities the bounds."""
    _, packed, x = converted("linear", "dorefa")
    x.view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    clean = x.clone()
    clean.view(-1)[:3] = torch.tensor([0.0, 1.0, 0.0])
    for _ in range(2):
        assert torch.equal(packed(x), packed(clean))
