"""First convolutions of converted models: torch's values to the last bit, bits where only signs are read."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize
from quantize.kernels import ConvGeometry, Epilogue, available_kernels, cpu, cpu_layers
from quantize.kernels.library import KernelError
from quantize.packed.float_conv import FloatConv2d, is_few_channels
from quantize.packed.layers import PackedConv2d

pytestmark = [pytest.mark.core, pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")]

KERNELS = [name for name in available_kernels() if name not in ("reference", "triton")]
# Input channels, filters, size, kernel, stride, padding, dilation.
SHAPES = [
    (3, 192, (32, 32), (5, 5), (1, 1), (2, 2), (1, 1)),
    (3, 64, (64, 50), (7, 7), (2, 2), (3, 3), (1, 1)),
    (1, 20, (28, 28), (5, 5), (1, 1), (0, 0), (1, 1)),
    (3, 16, (32, 32), (3, 3), (1, 1), (1, 1), (1, 1)),
    (4, 33, (9, 13), (3, 5), (1, 2), (1, 0), (1, 1)),
    (2, 1, (17, 5), (1, 5), (2, 1), (0, 2), (1, 1)),
    (3, 40, (16, 16), (3, 3), (1, 1), (2, 2), (2, 2)),
    (3, 96, (63, 63), (11, 11), (4, 4), (2, 2), (1, 1)),
]


def convolve(x: torch.Tensor, layer: nn.Conv2d, by_channels: bool, **ends) -> torch.Tensor:
    padding = (*layer.padding, *layer.padding)
    sizes = (layer.kernel_size, layer.stride, padding, layer.dilation)
    geometry = ConvGeometry(layer.in_channels, layer.out_channels, *sizes)
    weights = cpu_layers.prepare_floats(layer.weight.detach(), geometry, by_channels)
    call, y = cpu_layers.bind_conv2d_floats(x, weights, geometry, Epilogue(bias=layer.bias.detach(), **ends))
    call(x.data_ptr(), y.data_ptr())
    return y


def layer_of(channels, filters, _size, kernel, stride, padding, dilation) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(channels, filters, kernel, stride, padding, dilation).requires_grad_(False)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("by_channels", [False, True])
def test_sums(shape, by_channels, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    layer = layer_of(*shape)
    x = torch.randn(3, shape[0], *shape[2])
    exact = copy.deepcopy(layer).double()(x.double())
    torch.testing.assert_close(convolve(x, layer, by_channels).double(), exact, rtol=0, atol=4e-6)
    torch.testing.assert_close(convolve(x, layer, by_channels, relu=True).double(), exact.relu(), rtol=0, atol=4e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_those_of_the_floats(shape, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    layer, filters = layer_of(*shape), shape[1]
    x = torch.randn(2, shape[0], *shape[2])
    threshold, flip = torch.randn(filters), torch.rand(filters) < 0.5
    y = convolve(x, layer, False)
    threshold[0] = y[0, 0, 0, 0]  # equal: +1, flipped or not
    bits = convolve(x, layer, False, threshold=threshold, flip=flip, output="bits")
    t, f = threshold.view(-1, 1, 1), flip.view(-1, 1, 1)
    expected = torch.where(torch.where(f, y <= t, y >= t), 1.0, -1.0)
    assert torch.equal(quantize.packing.unpack_activations(bits, filters), expected)


def test_values_are_added_in_an_order_that_rounding_shows():
    """So the two orders are two: with one tap, or one channel, they are the same."""
    layer, x = layer_of(*SHAPES[0]), torch.randn(1, 3, 32, 32)
    assert not torch.equal(convolve(x, layer, False), convolve(x, layer, True))
    layer, x = layer_of(*SHAPES[2]), torch.randn(1, 1, 28, 28)
    assert torch.equal(convolve(x, layer, False), convolve(x, layer, True))


def test_what_the_library_refuses():
    layer, x = layer_of(*SHAPES[3]), torch.randn(1, 3, 32, 32)
    geometry = ConvGeometry(3, 16, (3, 3), padding=(1, 1, 1, 1))
    weights = cpu_layers.prepare_floats(layer.weight, geometry)
    with pytest.raises(ValueError, match=r"x .*\(1, 3, 32, 32\)"):
        cpu_layers.bind_conv2d_floats(x[:, :2], weights, geometry, Epilogue())
    with pytest.raises(ValueError, match="x "):
        cpu_layers.bind_conv2d_floats(x.to(memory_format=torch.channels_last), weights, geometry, Epilogue())
    damaged = weights.clone()
    damaged[0] ^= 1
    for wrong in (
        damaged,
        weights[:-1].clone(),
        cpu_layers.prepare_floats(layer.weight[:, :2], ConvGeometry(2, 16, (3, 3))),
    ):
        call, y = cpu_layers.bind_conv2d_floats(x, wrong, geometry, Epilogue())
        with pytest.raises(KernelError, match="weights that xk_float_pack made"):
            call(x.data_ptr(), y.data_ptr())
    with pytest.raises(KernelError, match="groups is 2"):
        cpu_layers.prepare_floats(torch.randn(4, 2, 3, 3), ConvGeometry(4, 4, (3, 3), groups=2))
    call, y = cpu_layers.bind_conv2d_floats(x, weights, geometry, Epilogue(output="int32"))
    with pytest.raises(KernelError, match="no int32 output"):
        call(x.data_ptr(), y.data_ptr())


# In converted models.


def network(*between: nn.Module, reader: nn.Module | None = None, x: torch.Tensor | None = None):
    """(a converted network whose first layer stays float, an input, the prepared network)."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16) if x is None else x
    reader = nn.Conv2d(32, 24, 3, padding=1) if reader is None else reader
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *between, reader, nn.Flatten(), nn.LazyLinear(4))
    net(x)
    net = quantize.prepare(net, "xnor", x)
    net.train()(x)
    return quantize.convert(net.eval(), x), x, net


def first(model: nn.Module) -> FloatConv2d:
    (layer,) = (module for module in model.modules() if type(module) is FloatConv2d)
    return layer


def bound_first(model: nn.Module) -> FloatConv2d:
    """The first layer of a model that has been called, bound to the library."""
    layer = first(model)
    if layer.bound is None:
        pytest.skip("torch adds up in an order of its own on this machine")
    return layer


def settled(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output once everything is bound that can be."""
    for _ in range(4):
        y = model(x)
    return y


def test_a_packed_reader_gets_bits_and_the_same_answers():
    packed, x, net = network(nn.BatchNorm2d(32), nn.ReLU(), nn.BatchNorm2d(32))
    seen = []
    reader = next(module for module in packed.modules() if type(module) is PackedConv2d)
    expected = packed(x)
    settled(packed, x)
    assert bound_first(packed).bound.of.to_bits
    assert reader.bound.form[2] is torch.int64
    for _ in range(3):
        y = torch.randn_like(x)
        torch.testing.assert_close(packed(y), net(y), rtol=1e-5, atol=1e-5)
    assert torch.equal(packed(x), expected)
    handle = reader.register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # sees floats, as it always did
    assert torch.equal(packed(x), expected)
    assert seen[0].dtype is torch.float32
    handle.remove()
    handle = first(packed).register_forward_hook(lambda _, args, output: seen.append(output))
    assert torch.equal(packed(x), expected)
    assert seen[1].dtype is torch.float32
    handle.remove()


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (5, 3, 16, 16), (2, 3, 40, 41)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_torchs_values_to_the_last_bit(shape, threads, kernel_size):
    """Whichever way torch goes, which depends on all three."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = torch.randn(shape)
        net = nn.Sequential(nn.Conv2d(3, 32, kernel_size, padding=1), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 8, 1))
        packed = quantize.convert(quantize.prepare(net, "xnor", x).eval(), x)
        layer = first(packed)
        layer.readers = ()
        for _ in range(4):
            y = torch.randn(shape)
            assert torch.equal(layer(y), F.conv2d(y, layer.weight, layer.bias, padding=1))
    finally:
        torch.set_num_threads(before)


def test_other_values_than_torchs_are_not_taken(monkeypatch):
    """A kernel that rounds products before it adds them: the layer stays torch's, and is tried once a form."""
    monkeypatch.setenv("XNORKIT_KERNEL", "scalar")
    packed, x, _ = network(nn.ReLU())
    if torch.equal(settled(packed, x), packed(x)) and first(packed).bound is not None:
        pytest.skip("torch rounds so here too")
    monkeypatch.setattr(cpu_layers, "prepare_floats", lambda *_: pytest.fail("tried again"))
    settled(packed, x)


@pytest.mark.parametrize("change", ["data", "in place", "new storage", "new parameter", "loaded", "bias", "threshold"])
def test_weights_that_change_are_seen(change):
    packed, x, _ = network(nn.BatchNorm2d(32), nn.ReLU())
    settled(packed, x)
    layer = bound_first(packed)
    other = torch.randn_like(layer.weight)
    with torch.no_grad():
        if change == "data":
            layer.weight.data.copy_(other)
        elif change == "in place":
            layer.weight.mul_(-1)
        elif change == "new storage":
            layer.weight.data = other
        elif change == "new parameter":
            layer.weight = nn.Parameter(other, requires_grad=False)
        elif change == "loaded":
            packed.load_state_dict({**packed.state_dict(), "0.weight": other})
        elif change == "bias":
            layer.bias.data.add_(1)
        else:
            layer.readers[0].threshold = layer.readers[0].threshold + 0.5
    plain = copy.deepcopy(packed)
    first(plain).__class__ = nn.Conv2d
    assert torch.equal(packed(x), plain(x))
    assert torch.equal(settled(packed, x), plain(x))


def test_states_and_copies_are_those_of_a_plain_convolution():
    packed, x, net = network(nn.BatchNorm2d(32), nn.ReLU())
    before = packed.state_dict()
    expected = settled(packed, x)
    after = packed.state_dict()
    assert list(before) == list(after)
    assert {"0.weight", "0.bias"} <= set(after)
    other = quantize.convert(net, x)
    other.load_state_dict(after)
    for copied in (other, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        layer = first(copied)
        assert layer.bound is None
        assert layer.readers[0] in set(copied.modules())
        assert torch.equal(settled(copied, x), expected)


def test_inputs_that_torch_takes_are_torchs():
    packed, x, net = network(nn.ReLU())
    expected = settled(packed, x)
    assert torch.equal(packed(x.to(memory_format=torch.channels_last)), expected)
    with pytest.raises(RuntimeError, match="packed layers have no gradient"):
        packed(x.clone().requires_grad_())
    mapped = torch.func.vmap(first(packed))(x[:, None])[:, 0]
    torch.testing.assert_close(mapped, F.conv2d(x, first(packed).weight, first(packed).bias, padding=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert first(packed)(x).dtype is torch.bfloat16
    with torch.inference_mode():
        assert torch.equal(settled(packed, x), expected)
    assert packed(x[:0]).shape == (0, 4)
    torch.testing.assert_close(packed(x[:1]), net(x[:1]), rtol=1e-5, atol=1e-5)


def test_a_bound_model_is_exported_compiled_and_calibrated(tmp_path):
    packed, x, net = network(nn.ReLU())
    expected = settled(packed, x)
    program = torch.export.export(packed, (x,))
    assert torch.equal(program.module()(x), expected)
    assert torch.equal(torch.compile(packed, fullgraph=True, backend="aot_eager")(x), expected)
    torch.compiler.reset()
    quantize.export_onnx(packed, tmp_path / "net.onnx", x)
    calibrated = quantize.convert(net, x, float_layers="int8", calibration=x, max_drop=100)
    assert not any(type(module) is FloatConv2d for module in calibrated.modules())
    assert "8 bits" in str(quantize.conversion_report(calibrated))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(5, 8, 3), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(3, 8, 3, padding_mode="reflect"),
        nn.Conv2d(3, 8, 3, padding="same"), nn.Conv1d(3, 8, 3), nn.Linear(3, 8), FloatConv2d(3, 8, 3),
    ],
    ids=str,
)  # fmt: skip
def test_layers_that_stay_as_they_are(layer):
    assert not is_few_channels(layer)


def test_what_else_reads_the_floats_gets_floats():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            y = self.conv(x)
            return self.two(self.one(y) + y)

    x = torch.randn(1, 3, 12, 12)
    net = quantize.prepare(Branch(), "xnor", x).eval()
    packed = quantize.convert(net, x)
    assert not first(packed).readers
    torch.testing.assert_close(settled(packed, x), net(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("between", "reader"),
    [
        ((nn.MaxPool2d(2),), None), ((nn.Tanh(),), None), ((), nn.Conv2d(32, 8, 3, padding=1, padding_mode="circular")),
        ((nn.Flatten(2),), nn.Conv1d(32, 8, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_readers_of_more_than_signs_in_place_get_floats(between, reader):
    packed, x, net = network(*between, reader=reader)
    assert not first(packed).readers
    torch.testing.assert_close(settled(packed, x), net(x), rtol=1e-5, atol=1e-5)
