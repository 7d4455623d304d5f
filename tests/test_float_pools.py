"""Pooling of floats in converted models: the values of torch's, wherever the library computes them."""

import copy
import itertools

import pytest
import torch
from torch import nn

import quantize
from quantize.kernels import cpu
from quantize.packed import FloatAvgPool2d, FloatMaxPool2d
from quantize.packed.pool import float_pool

KERNELS = cpu.available_kernels()
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)},
    {"kernel_size": (1, 5), "stride": (4, 1), "padding": (0, 2)},
    {"kernel_size": 7, "stride": 7},
    {"kernel_size": 2, "stride": 5},
    {"kernel_size": 8, "stride": 1, "padding": 4},
]
SIZES = [(2, 3, 8, 11), (1, 17, 14, 14), (3, 1, 9, 7)]
POOLS = [
    *[nn.MaxPool2d(**w) for w in WINDOWS],
    nn.MaxPool2d(3, dilation=2, padding=1),
    nn.MaxPool2d((2, 3), stride=2, dilation=(3, 1)),
    *[nn.AvgPool2d(**w) for w in WINDOWS],
    nn.AvgPool2d(3, count_include_pad=False),
    nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
]


def calls(monkeypatch) -> list[str]:
    """Of the library's pools of floats."""
    names = []
    function = cpu.bind_pool_floats
    monkeypatch.setattr(cpu, "bind_pool_floats", lambda name, *rest: names.append(name) or function(name, *rest))
    return names


def ours(pool: nn.Module) -> nn.Module:
    made = copy.deepcopy(pool)
    made.__class__ = float_pool(pool)
    return made


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_values_are_torchs(pool, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    names, made = calls(monkeypatch), ours(pool)
    for size in SIZES:
        x = torch.randn(size)
        if not _fits(pool, x):
            continue
        torch.testing.assert_close(made(x), pool(x), rtol=0, atol=0)
    assert names


def _fits(pool: nn.Module, x: torch.Tensor) -> bool:
    try:
        pool(x)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)], ids=str)
def test_special_values(pool, kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    values = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), -float("nan"), 1e-45, -1e-45, 3e38, -3e38, 1.0]
    x = torch.tensor(list(itertools.product(values, repeat=3))).repeat(1, 4)[: 11 * 11 * 8].reshape(1, 8, 11 * 11, 12)
    torch.testing.assert_close(ours(pool)(x), pool(x), rtol=0, atol=0, equal_nan=True)
    only = torch.full((1, 1, 4, 4), -float("inf"))
    torch.testing.assert_close(ours(pool)(only), pool(only), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2, divisor_override=3), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.MaxPool1d(2),
        nn.AdaptiveAvgPool2d(1),
    ],
    ids=str,
)  # fmt: skip
def test_other_pools_stay(pool):
    assert float_pool(pool) is None


def test_inputs_that_torch_pools(monkeypatch):
    names = calls(monkeypatch)
    x = torch.randn(2, 3, 8, 8)
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2)):
        made = ours(pool)
        for other in (x.double(), x[0], x.to(memory_format=torch.channels_last), x[:0], x.clone().requires_grad_()):
            torch.testing.assert_close(made(other), pool(other), rtol=0, atol=0)
        torch.testing.assert_close(torch.export.export(made, (x,)).module()(x), pool(x), rtol=0, atol=0)
        torch.testing.assert_close(torch.func.vmap(made)(x.unsqueeze(0)), pool(x).unsqueeze(0), rtol=0, atol=0)
        with pytest.raises(RuntimeError, match="too small"):
            made(x[:, :, :1])
    with pytest.raises(RuntimeError, match="pad should be at most half"):
        ours(nn.MaxPool2d(2, padding=2))(x)
    assert not names


def test_converted_models_pool_by_the_library(monkeypatch):
    x = torch.randn(2, 3, 16, 16)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.AvgPool2d(3, 2, 1), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip
    prepared = quantize.prepare(net, "xnor", x).eval()
    packed = quantize.convert(prepared, x)
    names = calls(monkeypatch)
    torch.testing.assert_close(packed(x), prepared(x), rtol=1e-5, atol=1e-5)
    assert names == ["xk_max_pool_float", "xk_average_pool"]
    assert [type(packed[1]), type(packed[3])] == [FloatMaxPool2d, FloatAvgPool2d]
    again = copy.deepcopy(packed)
    again.load_state_dict(packed.state_dict())
    assert torch.equal(again(x), packed(x))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)], ids=str)
def test_windows_that_reach_past_the_input_are_torchs(pool, monkeypatch):
    names, made = calls(monkeypatch), ours(pool)
    for size, found in (((2, 3, 8, 11), 0), ((2, 3, 7, 10), 0), ((2, 3, 8, 10), 1)):
        x = torch.randn(size)
        torch.testing.assert_close(made(x), pool(x), rtol=0, atol=0)
        assert len(names) == found
