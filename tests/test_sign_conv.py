"""Convolutions of floats with weights that are signs: sums looked up, against float64 and against expanded weights."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

import quantize
from quantize import kernels, packing
from quantize.kernels import ConvGeometry, cpu, cpu_layers
from quantize.packed.codes import lookup
from quantize.packed.codes.lookup import MOST_PIXELS_OF_TWO, SignConv

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(kernels.available_kernels() == ["reference"], reason="the native library is not built"),
]

SCHEMES = ["bwn", "binaryconnect", "dorefa:w_bits=1,a_bits=32", "ternary"]
NATIVE = [name for name in kernels.available_kernels() if name != "reference"]
# The layer and the shape of an input.
LAYERS = {
    "conv": (lambda: nn.Conv2d(128, 130, 3, padding=1), (1, 128, 9, 7)),
    "batch": (lambda: nn.Conv2d(131, 64, 3, bias=False), (3, 131, 5, 6)),
    "groups": (lambda: nn.Conv2d(258, 120, 3, groups=2), (3, 258, 5, 6)),
    "strides": (lambda: nn.Conv2d(129, 256, (5, 3), stride=(2, 3), padding=(3, 0)), (1, 129, 10, 12)),
    "dilations": (lambda: nn.Conv2d(160, 64, 3, padding=2, dilation=(1, 2)), (1, 160, 6, 7)),
    "padded unevenly": (lambda: nn.Conv2d(128, 64, (4, 3), padding="same"), (1, 128, 5, 4)),
    "windows in the padding": (lambda: nn.Conv2d(128, 64, 3, padding=5), (1, 128, 2, 3)),
    "pixels": (lambda: nn.Conv2d(512, 512, 1), (3, 512, 3, 5)),
    "without a batch": (lambda: nn.Conv2d(128, 64, 3), (128, 5, 6)),
    "1-D": (lambda: nn.Conv1d(128, 128, 5, stride=1, padding=3, dilation=2), (3, 128, 11)),
    "3-D": (lambda: nn.Conv3d(64, 64, 3, padding=1), (2, 64, 4, 5, 6)),
    "3-D, groups": (lambda: nn.Conv3d(132, 140, (2, 3, 3), padding=(2, 0, 1), bias=False, groups=2), (1, 132, 3, 5, 4)),
    "3-D, strides": (lambda: nn.Conv3d(45, 256, (3, 3, 5), (2, 1, 3), (0, 3, 1), (2, 2, 1)), (2, 45, 10, 6, 9)),
    "3-D, uneven": (lambda: nn.Conv3d(64, 64, (4, 3, 3), padding="same", dilation=(3, 1, 1)), (1, 64, 5, 4, 3)),
    "3-D, slices in the padding": (lambda: nn.Conv3d(64, 64, 3, padding=(4, 0, 0)), (1, 64, 1, 3, 4)),
    "3-D without a batch": (lambda: nn.Conv3d(128, 64, (1, 3, 3)), (128, 2, 5, 6)),
    "1-D without a batch": (lambda: nn.Conv1d(192, 256, 4, stride=2, groups=1), (192, 9)),
}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Also on machines where a convolution of floats is."""
    monkeypatch.setattr(cpu_layers, "sign_conv_is_fast", lambda: True)


def converted(name: str, scheme: str = "bwn") -> tuple[nn.Module, nn.Module, torch.Tensor]:
    build, shape = LAYERS[name]
    x = torch.randn(shape)
    prepared = quantize.prepare(nn.Sequential(build()), scheme, x, keep_float=()).eval()
    return prepared, quantize.convert(prepared, x), x


def formula(layer: quantize.BinaryLayer, x: torch.Tensor) -> torch.Tensor:
    values, scale = (part if part is None else part.double() for part in layer.quantized_weight())
    weight = values if scale is None else values * scale
    bias = None if layer.bias is None else layer.bias.double()
    return layer._conv_forward(x.double(), weight, bias)


def looks_up(model: nn.Module) -> bool:
    held = model[0]._on_bits
    return isinstance(held, SignConv) and held.weights is not None


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", LAYERS)
def test_it_computes_the_formula(name, scheme, monkeypatch):
    prepared, packed, x = converted(name, scheme)
    found = packed(x)
    assert looks_up(packed)
    assert_close(found, formula(prepared[0], x))
    monkeypatch.setattr(cpu_layers, "sign_conv_is_fast", lambda: False)
    expanding = quantize.convert(prepared, x)
    assert_close(found, expanding(x))
    assert not looks_up(expanding)


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("scheme", ["bwn", "ternary"])
@pytest.mark.parametrize("name", ["conv", "groups", "strides", "1-D", "3-D"])
def test_every_kernel(name, scheme, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    prepared, packed, x = converted(name, scheme)
    assert_close(packed(x), formula(prepared[0], x))
    assert cpu_layers.lookup_kernel(packed[0]._on_bits.weights) == kernel


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["conv", "without a batch", "1-D"])
def test_again_and_again_it_is_one_call(name, scheme):
    prepared, packed, x = converted(name, scheme)
    for _ in range(3):
        x = x.roll(1, 0) + 0.1
        assert_close(packed(x), formula(prepared[0], x))
        held, layer = packed[0]._on_bits, packed[0]
        assert torch.equal(packed(x), held.compute(layer, x, layer.weight_scale))
    assert (layer.bound is not None) == (layer.weight_scale is None or layer.weight_scale.numel() > 1)
    assert torch.equal(packed(x[..., :5]), held.compute(layer, x[..., :5], layer.weight_scale))


def test_what_a_call_is_bound_to_lives():
    """Another state's weights, lent for a call, take the place of those that were prepared."""
    _, first, x = converted("conv")
    _, second, _ = converted("conv")
    for _ in range(3):
        before, expected = first(x), second(x)
    assert first[0].bound is not None
    for _ in range(3):
        assert torch.equal(functional_call(first, second.state_dict(), (x,)), expected)
        assert torch.equal(first(x), before)


def test_ternary_weights_without_zeros_are_signs():
    layer = nn.Conv2d(128, 64, 3)
    layer.weight.data.sign_()
    prepared = quantize.prepare(nn.Sequential(layer), "ternary", keep_float=()).eval()
    x = torch.randn(1, 128, 5, 6)
    packed = quantize.convert(prepared, x)
    assert_close(packed(x), formula(prepared[0], x))
    assert packed[0].weight_levels.tolist() == [-1.0, 1.0, 3.0, 5.0]
    assert not looks_up(packed)


def test_ternary_weights_of_large_images_expand():
    prepared, packed, x = converted("conv", "ternary")
    image = torch.randn(1, 128, MOST_PIXELS_OF_TWO // 20, 20)
    for more in (0, 1, 1):
        y = torch.cat([image, image[:, :, :more]], 2)
        assert torch.equal(packed(y), prepared(y)) == bool(more)
        assert_close(packed(y), formula(prepared[0], y))
    assert torch.equal(packed(torch.cat([x] * 7)), prepared(torch.cat([x] * 7)))


@pytest.mark.parametrize("name", ["batch", "strides"])
def test_the_output_has_the_memory_order_of_the_input(name):
    prepared, packed, x = converted(name)
    rows = x.contiguous(memory_format=torch.channels_last)
    found = packed(rows)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, packed(x))
    assert packed(x).is_contiguous()
    assert torch.equal(packed(torch.cat([x, x])[::2]), packed(torch.cat([x, x])[::2].contiguous()))
    assert looks_up(packed)


def test_the_reference_expands(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "reference")
    prepared, packed, x = converted("conv")
    assert_close(packed(x), prepared(x))
    assert not looks_up(packed)


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [
        (lambda: nn.Conv2d(127, 64, 3, padding=1), "ternary"),
        (lambda: nn.Conv2d(128, 64, 3, padding=1), "dorefa:w_bits=2,a_bits=32"),
        (lambda: nn.Conv2d(128, 64, 3, padding=1, padding_mode="reflect"), "bwn"),
        (lambda: nn.Conv2d(127, 64, 3, padding=1), "bwn"),
        (lambda: nn.Conv2d(128, 56, 3, padding=1), "bwn"),  # 504 look-ups
        (lambda: nn.Conv2d(128, 200, 3, padding=1, stride=2), "bwn"),  # 450
        (lambda: nn.Conv2d(508, 1024, 1), "bwn"),  # 508 products
        (lambda: nn.ConvTranspose2d(127, 128, 3), "bwn"),
        (lambda: nn.Conv3d(42, 64, 3, padding=1), "bwn"),  # 126 channels of an image
        (lambda: nn.Conv3d(64, 64, 3, padding=1, padding_mode="circular"), "bwn"),
    ],
)
def test_what_expands(layer, scheme):
    module = layer()
    x = torch.randn(1, module.in_channels, *[4] * len(module.kernel_size))
    prepared = quantize.prepare(nn.Sequential(module), scheme, x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    assert torch.equal(packed(x), prepared(x))
    assert not isinstance(packed[0]._on_bits, SignConv)
    assert "expands its weight at each call" in packed[0].note


def test_levels_that_are_no_signs_expand():
    _, packed, x = converted("conv", "binaryconnect")
    packed[0].weight_levels.copy_(torch.tensor([-1.0, 2.0]))
    packed[0]._on_bits = None
    assert torch.equal(packed(x), F.conv2d(x, packed[0].weight, packed[0].bias, padding=1))
    assert not looks_up(packed)


def test_a_state_goes_round():
    _, first, x = converted("conv")
    _, second, _ = converted("conv")
    expected = second(x)
    assert not torch.allclose(first(x), expected)
    first.load_state_dict(pickle.loads(pickle.dumps(second.state_dict())))
    assert torch.equal(first(x), expected)
    assert torch.equal(copy.deepcopy(first)(x), expected)
    assert torch.equal(functional_call(second, first.state_dict(), (x,)), expected)


def test_a_state_of_a_layer_that_expanded_is_loaded(monkeypatch):
    """Of an older version, or of another machine: the bits are all that is stored."""
    _, packed, x = converted("groups")
    with monkeypatch.context() as patch:
        patch.setattr(cpu_layers, "sign_conv_is_fast", lambda: False)
        _, old, _ = converted("groups")
        expected = old(x)
    state = old.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in packed.state_dict().items()
    }
    packed.load_state_dict(state)
    assert_close(packed(x), expected)
    assert looks_up(packed)


def test_tensors_that_are_lent_are_computed_with():
    _, first, x = converted("conv")
    _, second, _ = converted("conv")
    expected, before = second(x), first(x)
    assert torch.equal(functional_call(first, second.state_dict(), (x,)), expected)
    assert torch.equal(first(x), before)


def test_copies_hold_the_bits_once():
    _, packed, x = converted("conv")
    expected = packed(x)
    assert looks_up(packed)
    stored = pickle.dumps(packed)
    assert len(stored) < 2 * packed[0].weight_codes.numel()
    assert torch.equal(pickle.loads(stored)(x), expected)
    assert torch.equal(copy.deepcopy(packed)(x), expected)


def test_double_expands():
    prepared, packed, x = converted("conv")
    torch.testing.assert_close(packed.double()(x.double()), prepared.double()(x.double()))
    assert not looks_up(packed)
    packed.float()(x)
    assert looks_up(packed)


def test_another_default_type():
    prepared, packed, x = converted("conv")
    expected = packed(x)
    torch.set_default_dtype(torch.float64)
    try:
        other = quantize.convert(prepared, x)
        assert torch.equal(other(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)
    assert looks_up(other)


def test_what_is_written_down_or_transformed_expands():
    _, packed, x = converted("batch")
    expected = packed(x)
    assert_close(torch.export.export(packed, (x,)).module()(x), expected)
    assert_close(torch.jit.trace(packed, x)(x), expected)
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), expected)
    torch.compiler.reset()
    assert_close(vmap(packed)(x.unsqueeze(1)).squeeze(1), expected)
    assert torch.equal(packed(x), expected)


def test_large_volumes_are_stacked_in_parts(monkeypatch):
    """Two slices at a time, of each of two volumes."""
    prepared, packed, x = converted("3-D")
    monkeypatch.setattr(lookup, "_STACKED_BYTES", 2 * 4 * 3 * x[0, :, 0].numel())
    parts = []
    images = lookup.Stacked.images
    monkeypatch.setattr(lookup.Stacked, "images", lambda *args: parts.append(images(*args)) or parts[-1])
    assert_close(packed(x), formula(prepared[0], x))
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    monkeypatch.setattr(lookup, "_STACKED_BYTES", 0)
    assert_close(packed(x[..., :-1]), formula(prepared[0], x[..., :-1]))
    assert [len(part) for part in parts[4:]] == [1] * 8


def test_threads_compute_the_same():
    _, packed, x = converted("batch")
    expected, before = packed(x), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(packed(x), expected)
    finally:
        torch.set_num_threads(before)


def test_no_image():
    _, packed, x = converted("conv")
    assert packed(x[:0]).shape == (0, *packed(x).shape[1:])


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((1, 127, 9, 7), RuntimeError, "to have 128 channels, but got 127 channels"),
        ((9, 7), RuntimeError, "Expected 3D .* or 4D .* input"),
        ((1, 128, 2, 7), ValueError, "the height of the input is 2|less than the 3 that the dilated kernel spans"),
    ],
)
def test_other_inputs_are_refused(shape, error, message):
    layer = nn.Sequential(nn.Conv2d(128, 64, 3))
    x = torch.randn(1, 128, 9, 7)
    packed = quantize.convert(quantize.prepare(layer, "bwn", x, keep_float=()), x)
    with pytest.raises(error, match=message):
        packed(torch.randn(shape))


def test_the_report_says_what_it_does_here(monkeypatch):
    prepared, packed, x = converted("conv")
    (row,) = quantize.conversion_report(packed)
    assert row.note == "looks sums up by its bits"
    (row,) = quantize.conversion_report(quantize.convert(prepared, x, keep_expanded=True))
    assert row.note == "looks sums up by its bits"
    monkeypatch.setattr(cpu_layers, "sign_conv_is_fast", lambda: False)
    (row,) = quantize.conversion_report(quantize.convert(prepared, x))
    assert row.note.endswith("expands its weight at each call")


def test_the_machine_is_asked(monkeypatch):
    monkeypatch.undo()
    assert cpu_layers.sign_conv_is_fast() == ("avx512bw" in cpu.available_kernels())


def test_what_the_library_refuses():
    geometry = ConvGeometry(10, 5, (3, 3))
    dense = packing.pack_weights(torch.randn(geometry.filters))
    weights, x = cpu_layers.prepare_sign_conv([dense], geometry), torch.randn(2, 10, 6, 7)
    assert cpu_layers.sign_conv2d(x, weights, geometry).shape == (2, 5, 4, 5)
    with pytest.raises(ValueError, match="weights"):
        cpu_layers.prepare_sign_conv([dense[:, 1:].contiguous()], geometry)
    with pytest.raises(ValueError, match=r"x has shape \(2, 9, 6, 7\); it must be \(2, 10, 6, 7\)"):
        cpu_layers.sign_conv2d(x[:, 1:].contiguous(), weights, geometry)
    with pytest.raises(ValueError, match="x is float64; it must be float32"):
        cpu_layers.sign_conv2d(x.double(), weights, geometry)
    with pytest.raises(ValueError, match=r"scale has shape \(4,\); it must be \(5,\)"):
        cpu_layers.sign_conv2d(x, weights, geometry, torch.ones(4))
    with pytest.raises(kernels.library.KernelError, match="of another shape than this convolution's"):
        cpu_layers.sign_conv2d(x, weights, ConvGeometry(10, 5, (3, 2)))
    with pytest.raises(kernels.library.KernelError, match="xk_sign_conv_pack made on this machine"):
        cpu_layers.sign_conv2d(x, weights ^ 1, geometry)


TRANSPOSED = {
    "phases": (lambda: nn.ConvTranspose2d(128, 70, 4, 2, 1), (2, 128, 5, 6)),
    "no padding": (lambda: nn.ConvTranspose2d(129, 60, 4, 2, bias=False), (1, 129, 3, 4)),
    "more padding": (lambda: nn.ConvTranspose2d(128, 40, 4, 2, 3, output_padding=1), (1, 128, 5, 4)),
    "uneven": (lambda: nn.ConvTranspose2d(256, 66, (6, 2), (3, 1), (2, 1), output_padding=(2, 0)), (1, 256, 4, 5)),
    "stride 1": (lambda: nn.ConvTranspose2d(128, 64, 3, padding=1), (1, 128, 5, 7)),
    "a tap a phase": (lambda: nn.ConvTranspose2d(512, 130, 2, 2), (1, 512, 3, 5)),
    "1-D": (lambda: nn.ConvTranspose1d(256, 128, 4, 2, 1), (2, 256, 9)),
    "without a batch": (lambda: nn.ConvTranspose2d(128, 64, 4, 2, 1), (128, 4, 5)),
}


def transposed_formula(layer: quantize.BinaryLayer, x: torch.Tensor) -> torch.Tensor:
    values, scale = (part if part is None else part.double() for part in layer.quantized_weight())
    weight = layer.from_filters(values if scale is None else values * scale)
    bias = None if layer.bias is None else layer.bias.double()
    convolve = (F.conv_transpose1d, F.conv_transpose2d)[len(layer.kernel_size) - 1]
    return convolve(x.double(), weight, bias, layer.stride, layer.padding, layer.output_padding)


@pytest.mark.parametrize("kernel", NATIVE)
@pytest.mark.parametrize("scheme", ["bwn", "ternary"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(name, scheme, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    build, shape = TRANSPOSED[name]
    x = torch.randn(shape)
    prepared = quantize.prepare(nn.Sequential(build()), scheme, x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    for _ in range(3):
        y = packed(x)
        assert_close(y, transposed_formula(prepared[0], x))
        assert y.shape == prepared(x).shape
        x = torch.randn(shape)
    assert looks_up(packed)
    assert packed[0].bound is not None
    assert cpu_layers.lookup_kernel(packed[0]._on_bits.weights) == kernel
    if x.dim() == 4:
        rows = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(packed(rows), packed(x))
        size = [n + 1 for n in packed(x).shape[2:]]
        if name == "phases":
            torch.testing.assert_close(packed[0](x, output_size=size), prepared[0](x, output_size=size))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ConvTranspose2d(128, 128, 3, 2, 1),  # phases of other numbers of taps
        lambda: nn.ConvTranspose2d(256, 128, 4, 2, 1, groups=2),
        lambda: nn.ConvTranspose2d(128, 128, 4, 2, 1, dilation=2),
        lambda: nn.ConvTranspose2d(512, 128, 2, 3),
        lambda: nn.ConvTranspose2d(128, 128, 2, 2),  # 128 products
    ],
)
def test_transposed_convolutions_that_expand(layer):
    module = layer()
    x = torch.randn(1, module.in_channels, 4, 4)
    prepared = quantize.prepare(nn.Sequential(module), "bwn", x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    assert torch.equal(packed(x), prepared(x))
    assert not isinstance(packed[0]._on_bits, SignConv)


def test_a_transposed_convolution_is_exported():
    """To a file it goes as plain operations."""
    build, shape = TRANSPOSED["phases"]
    x = torch.randn(shape)
    packed = quantize.convert(quantize.prepare(nn.Sequential(build()), "bwn", x, keep_float=()).eval(), x)
    assert_close(torch.export.export(packed, (x,)).module()(x), packed(x))
