"""Max pooling of bits against max pooling of the floats that the bits stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from quantize import kernels, packing
from quantize.kernels import PoolGeometry, cpu, reference

pytestmark = pytest.mark.core

BACKENDS = [reference, *([cpu] if cpu.is_available() else [])]
native = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")
backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.__name__.rpartition(".")[2])


def floats(shape) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Few different values, so that maxima meet their thresholds; thresholds; flips of a third of the channels."""
    x, threshold = torch.randint(-4, 5, shape).float(), torch.randint(-2, 3, (shape[1],)).float()
    return x, threshold, torch.rand(shape[1]) < 1 / 3


def bits_of(x, threshold, flip) -> torch.Tensor:
    t = threshold.view(1, -1, 1, 1)
    return packing.pack_activations(torch.where(torch.where(flip.view(1, -1, 1, 1), x <= t, x >= t), 1.0, -1.0))


def geometry_of(output: torch.Tensor, kernel, stride, padding=(0, 0, 0, 0), dilation=(1, 1)) -> PoolGeometry:
    return PoolGeometry(kernel, stride, padding, dilation, tuple(output.shape[2:]))


OPTIONS = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": (2, 3), "stride": (3, 1), "padding": (1, 0), "ceil_mode": True},
    {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 2},
    {"kernel_size": (1, 4), "stride": (1, 2), "padding": (0, 2), "dilation": (3, 1)},
    {"kernel_size": 5, "stride": 5},
]


def pair(value) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@backends
@pytest.mark.parametrize("channels", [1, 63, 64, 65, 192])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pooling_bits_is_pooling_floats(backend, channels, options):
    x, threshold, flip = floats((2, channels, 7, 10))
    y = F.max_pool2d(x, **options)
    kernel, stride, padding, dilation = (
        pair(options.get(key, default))
        for key, default in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
    )
    geometry = geometry_of(y, kernel, stride, padding * 2, dilation)
    pooled = backend.max_pool2d(bits_of(x, threshold, flip), channels, geometry, flip)
    assert torch.equal(pooled, bits_of(y, threshold, flip))  # tail bits are zero
    unturned = torch.zeros(channels, dtype=torch.bool)
    pooled = backend.max_pool2d(bits_of(x, threshold, unturned), channels, geometry)
    assert torch.equal(pooled, bits_of(y, threshold, unturned))


@st.composite
def random_poolings(draw):
    kernel, stride, dilation = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(3))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = tuple(draw(st.integers(span, span + 12)) for span in spans)
    padding = tuple(draw(st.integers(0, min(k // 2, 2))) for k in (*kernel, *kernel))
    return kernel, stride, dilation, padding, (draw(st.integers(1, 2)), draw(st.integers(1, 130)), *size)


@settings(deadline=None, max_examples=50)
@given(random_poolings(), st.integers(0, 1000))
def test_random_poolings_with_uneven_padding(case, seed):
    kernel, stride, dilation, padding, shape = case
    torch.manual_seed(seed)
    x, threshold, flip = floats(shape)
    top, left, bottom, right = padding
    y = F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-1e9), kernel, stride, 0, dilation)
    if (y == -1e9).any():
        return  # a window in the padding, which is refused
    geometry = geometry_of(y, kernel, stride, padding, dilation)
    for backend in BACKENDS:
        pooled = backend.max_pool2d(bits_of(x, threshold, flip), shape[1], geometry, flip)
        assert torch.equal(pooled, bits_of(y, threshold, flip)), backend


@native
def test_the_environment_forces_the_reference(monkeypatch):
    x, threshold, flip = floats((1, 70, 6, 6))
    geometry = PoolGeometry((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (3, 3))
    bits = bits_of(x, threshold, flip)
    expected = kernels.max_pool2d(bits, 70, geometry, flip)
    monkeypatch.setattr(cpu, "max_pool2d", None)
    monkeypatch.setenv("XNORKIT_KERNEL", "reference")
    assert torch.equal(kernels.max_pool2d(bits, 70, geometry, flip), expected)


@native
def test_threads_do_not_change_the_answer():
    x, threshold, flip = floats((3, 96, 20, 21))
    y = F.max_pool2d(x, 3, 2, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        geometry = geometry_of(y, (3, 3), (2, 2), (1, 1, 1, 1))
        pooled = kernels.max_pool2d(bits_of(x, threshold, flip), 96, geometry, flip)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(pooled, bits_of(y, threshold, flip))


WORDS = torch.zeros(2, 8, 8, 2, dtype=torch.int64)
GOOD = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "dilation": (1, 1), "output": (4, 4)}


@native
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": (0, 3)}, "kernel_h is 0; it must be between 1"),
        ({"stride": (2, -1)}, "stride_w is -1"),
        ({"dilation": (0, 1)}, "dilation_h is 0"),
        ({"padding": (1, 1, -1, 1)}, "pad_bottom is -1"),
        ({"output": (-4, 4)}, "out_height is -4"),
        ({"output": (4, 2**41)}, "out_width is 2199023255552"),
        ({"output": (4, 2**39)}, "size of the output is over"),
        ({"output": (4, 3)}, "the output width is 3; windows over an input of 8 give 4, or 5 with ceil_mode"),
        ({"kernel": (11, 3)}, "padded input height is 10, less than the 11 that the dilated kernel spans"),
        ({"padding": (3, 1, 1, 1), "output": (5, 4)}, "window 0 of the output height lies in the padding"),
    ],
)
def test_bad_geometry(changes, message):
    with pytest.raises(ValueError, match=message):
        cpu.max_pool2d(WORDS, 70, PoolGeometry(**(GOOD | changes)))


@native
@pytest.mark.parametrize(
    ("words", "channels", "flip", "message"),
    [
        (WORDS.int(), 70, None, "words is int32; it must be int64"),
        (WORDS, 64, None, r"words has shape \(2, 8, 8, 2\); it must be \(2, 8, 8, 1\)"),
        (WORDS[0], 70, None, r"words has shape \(8, 8, 2\); it must be \(N, H, W, words\)"),
        (WORDS[:0], 70, None, "batch is 0"),
        (WORDS[:, ::2], 70, None, "words is not contiguous"),
        (WORDS, 70, torch.zeros(71, dtype=torch.bool), r"flip has shape \(71,\); it must be \(70,\)"),
        (WORDS, 70, torch.zeros(70), "flip is float32; it must be bool"),
    ],
)
def test_bad_bits(words, channels, flip, message):
    with pytest.raises(ValueError, match=message):
        cpu.max_pool2d(words, channels, PoolGeometry(**GOOD), flip)


def test_the_reference_refuses_windows_of_padding():
    with pytest.raises(ValueError, match="lies in the padding"):
        reference.max_pool2d(WORDS, 70, PoolGeometry(**(GOOD | {"padding": (3, 1, 1, 1), "output": (5, 4)})))
