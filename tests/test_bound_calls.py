"""Converted models called again and again: what was found out for an input is used for others of its form alone."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import models
import quantize
from quantize.kernels import available_kernels, cpu
from quantize.packed.layers import PackedConv2d
from quantize.packed.pool import FloatAvgPool2d, FloatMaxPool2d, PackedMaxPool2d

pytestmark = pytest.mark.core

native = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")


def pair(*layers: nn.Module, scheme: str = "xnor", x: torch.Tensor | None = None):
    """A prepared network in evaluation mode with batch norms as if trained, its packed form, and an input."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12) if x is None else x
    net = quantize.prepare(nn.Sequential(*layers), scheme, x)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    net.train()(x)
    return net.eval(), quantize.convert(net, x), x


def small(scheme: str = "xnor"):
    return pair(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.BatchNorm2d(64), nn.Conv2d(64, 70, 3, padding=1), nn.MaxPool2d(2),
        nn.BatchNorm2d(70), nn.Conv2d(70, 64, 3, padding=1), nn.AvgPool2d(3, 2, 1),
        nn.BatchNorm2d(64), nn.Conv2d(64, 32, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 10),
        scheme=scheme,
    )  # fmt: skip


def bound(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if getattr(module, "bound", None) is not None]


@native
def test_all_kinds_of_layers_bind_and_compute_the_same():
    net, packed, x = small()
    kinds = {type(module) for module in packed.modules()}
    assert kinds >= {PackedConv2d, PackedMaxPool2d, FloatMaxPool2d, FloatAvgPool2d}
    assert not bound(packed)
    for _ in range(4):
        y = torch.randn_like(x)
        torch.testing.assert_close(packed(y), net(y), rtol=1e-5, atol=1e-5)
    # The first layer only where torch adds up as the library does.
    assert sorted(name for name in bound(packed) if name != "FloatConv2d") == [
        "FloatMaxPool2d",
        "PackedConv2d",
        "PackedConv2d",
        "PackedConv2d",
        "PackedMaxPool2d",
    ]


@native
def test_a_bound_call_asks_the_library_alone(monkeypatch):
    _, packed, x = small()
    for _ in range(5):  # the second binds the first layer, whose bits the next gets in the third
        expected = packed(x)

    def unexpected(*_):
        raise AssertionError("called again")

    for name in ("bind_conv2d", "bind_conv2d_float", "bind_max_pool2d", "bind_pool_floats"):
        monkeypatch.setattr(cpu, name, unexpected)
    assert torch.equal(packed(x), expected)
    with pytest.raises(AssertionError, match="called again"):
        packed(x[:1])


@pytest.mark.parametrize("kernel", available_kernels())
def test_inputs_of_changing_forms(kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    net, packed, x = small()
    inputs = [
        x, x + 1, x[:1], x, x, x.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last) - 1,
        torch.randn(2, 12, 3, 12).transpose(1, 2), torch.randn(2, 12, 3, 12).transpose(1, 2), x,
    ]  # fmt: skip
    for y in inputs:
        torch.testing.assert_close(packed(y), net(y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(40, 24, 5, padding=2), (3, 40, 21)), (nn.Linear(100, 33), (2, 5, 100)), (nn.Linear(100, 33), (100,)),
        (nn.Conv2d(64, 16, 3), (64, 6, 7)), (nn.Conv2d(64, 16, 3, padding=1, padding_mode="reflect"), (2, 64, 6, 7)),
        (nn.Conv2d(64, 16, (2, 4), padding="same"), (2, 64, 6, 7)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["xnor", "xnor:input_scale=True", "bireal"])
def test_layers_alone(layer, shape, scheme):
    torch.manual_seed(0)
    net = quantize.prepare(nn.Sequential(layer), scheme, keep_float=()).eval()
    packed = quantize.convert(net, torch.randn(shape))
    for _ in range(4):
        x = torch.randn(shape)
        y = packed(x)
        torch.testing.assert_close(y, net(x), rtol=1e-6, atol=1e-6)
        assert y.shape == net(x).shape


def test_other_weights_than_those_it_was_bound_to():
    _, packed, x = small()
    other, _, _ = small()
    for module in other.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    other_packed = quantize.convert(other, x)
    for _ in range(3):
        packed(x)
    packed.load_state_dict(other_packed.state_dict())
    for _ in range(3):
        torch.testing.assert_close(packed(x), other(x), rtol=1e-5, atol=1e-5)


@native
def test_buffers_that_are_set_or_lent():
    torch.manual_seed(0)
    layer = quantize.prepare(nn.Sequential(nn.Conv2d(64, 32, 3)), "xnor", keep_float=()).eval()
    x = torch.randn(1, 64, 8, 8)
    packed = quantize.convert(layer, x)
    for _ in range(3):
        y = packed(x)
    assert bound(packed)
    lent = torch.func.functional_call(packed, {"0.bias": packed[0].bias + 1}, (x,))
    torch.testing.assert_close(lent, y + 1)
    packed[0].bias = packed[0].bias + 2
    for _ in range(3):
        torch.testing.assert_close(packed(x), y + 2)
    packed[0].bias += 1  # in place: the memory that it was bound to
    torch.testing.assert_close(packed(x), y + 3)


@native
def test_copies_and_files_are_not_bound():
    _, packed, x = small()
    for _ in range(3):
        expected = packed(x)
    file = io.BytesIO()
    torch.save(packed, file)
    file.seek(0)
    for made in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), torch.load(file, weights_only=False)):
        assert not bound(made)
        for _ in range(3):
            assert torch.equal(made(x), expected)


def test_gradients_and_transforms_are_refused_as_before():
    _, packed, x = small()
    packed = nn.Sequential(*list(packed)[4:7])
    x = torch.randn(2, 64, 12, 12)
    for _ in range(3):
        packed(x)
    with pytest.raises(RuntimeError, match="packed layers have no gradient"):
        packed(x.clone().requires_grad_())
    with torch.no_grad():
        packed(x.clone().requires_grad_())
    with pytest.raises(TypeError, match="takes float32, got float64"):
        packed(x.double())


def test_threads_share_a_model():
    _, packed, _ = small()
    inputs = [torch.randn(1 + i % 3 // 2, 3, 12, 12) for i in range(60)]
    expected = [packed(x) for x in inputs]
    for _ in range(3):
        packed(inputs[0])
    with ThreadPoolExecutor(4) as pool:
        for y, wanted in zip(pool.map(packed, inputs), expected, strict=True):
            assert torch.equal(y, wanted)


@native
def test_export_after_bound_calls():
    _, packed, x = small()
    for _ in range(3):
        expected = packed(x)
    program = torch.export.export(packed, (x,))
    torch.testing.assert_close(program.module()(x), expected)
    y = torch.randn_like(x)
    torch.testing.assert_close(program.module()(y), packed(y))


def test_floats_lie_channels_last_between_packed_convolutions_with_a_pooling():
    seen = {}
    _, packed, x = small()
    for name in ("7", "8", "10"):
        packed[int(name)].register_forward_hook(lambda _m, _i, y, name=name: seen.__setitem__(name, y.clone()))
    for _ in range(3):
        packed(x)
        order = [y.is_contiguous(memory_format=torch.channels_last) for y in seen.values()]
        assert order == [True, True, False]


def test_a_models_own_code_gets_floats_in_the_order_that_it_had():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.z = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 1)
            self.a = nn.Conv2d(64, 64, 3, padding=1)
            self.pool, self.b, self.last = nn.AvgPool2d(2), nn.Conv2d(64, 32, 1), nn.Linear(32 * 36, 10)

        def forward(self, x):
            y = self.b(self.pool(self.a(self.z(self.first(x)))))
            return self.last(y.view(len(y), -1))  # which takes no other order

    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    net = quantize.prepare(Net(), "xnor", x).eval()
    packed = quantize.convert(net, x)
    assert packed.a.folding.layout == "nhwc"
    for _ in range(3):
        torch.testing.assert_close(packed(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_memory_order_that_is_chosen_stays():
    x = torch.randn(2, 3, 12, 12).to(memory_format=torch.channels_last)
    net, packed, _ = small()
    packed = packed.to(memory_format=torch.channels_last)
    for _ in range(3):
        torch.testing.assert_close(packed(x), net(x), rtol=1e-4, atol=1e-4)
    one = quantize.prepare(
        nn.Sequential(nn.Conv2d(64, 64, 3), nn.AvgPool2d(2), nn.Conv2d(64, 8, 1)), keep_float=()
    ).eval()
    x = torch.randn(1, 64, 8, 8)
    alone = quantize.convert(one, x)
    for order in (torch.contiguous_format, torch.channels_last, torch.channels_last):
        y = alone(x.contiguous(memory_format=order))
        assert y.is_contiguous(memory_format=order)
        torch.testing.assert_close(y, one(x))


def test_containers_leave_out_what_was_absorbed_but_call_hooks():
    _, packed, x = small()
    kinds = [type(module) for module in packed]
    assert nn.Identity in kinds
    place, calls = kinds.index(nn.Identity), []
    expected = packed(x)
    packed[place].register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(packed(x), expected)
    assert calls == [1]
    assert isinstance(packed, nn.Sequential)
    assert len(packed) == 14


def test_containers_within_containers_are_gone_through_but_call_hooks():
    class Block(nn.Sequential):
        """As a network's own may be called."""

    class Counting(nn.Sequential):
        calls = 0

        def __call__(self, input):
            self.calls += 1
            return super().__call__(input)

    layers = [nn.BatchNorm2d(64), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    layers += [nn.BatchNorm2d(64), nn.Conv2d(64, 64, 1)]
    net, packed, x = pair(
        nn.Conv2d(3, 64, 1), Block(*layers[:2]), nn.Sequential(Block(*layers[2:4]), nn.Sequential()),
        Counting(layers[4], nn.Identity()), nn.Conv2d(64, 4, 1),
    )  # fmt: skip
    seen = []
    for _ in range(4):
        expected = packed(x)
        torch.testing.assert_close(expected, net(x), rtol=1e-5, atol=1e-5)
    assert packed[3].calls >= 4
    packed[2][0].register_forward_hook(lambda _, args, y: seen.append(type(y).__name__))
    packed[1].forward = lambda x: seen.append("own") or Block.forward(packed[1], x)
    assert torch.equal(packed(x), expected)
    assert seen[0] == "own"
    assert len(seen) == 2
    del packed[1].forward
    assert torch.equal(torch.export.export(packed, (x,)).module()(x), expected)


def test_whole_networks_again_and_again():
    for name in ("lenet5_xnornet", "nin_gc_xnornet"):
        model = models.create_model(name, pretrained="mnist" if "lenet" in name else "cifar10")
        size = (1, 28, 28) if "lenet" in name else (3, 32, 32)
        packed = quantize.convert(model, torch.randn(1, *size))
        for _ in range(4):
            x = torch.randn(1, *size)
            torch.testing.assert_close(packed(x), model.eval()(x), rtol=1e-4, atol=1e-4)
