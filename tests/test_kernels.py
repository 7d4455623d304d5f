"""Every kernel of this machine against an independent float convolution of +-1, exactly."""

import threading

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_problems import expected_sums, signs, square

from quantize import kernels, packing
from quantize.kernels import Binarize, ConvGeometry, Epilogue, cpu

pytestmark = pytest.mark.core

KERNELS = kernels.available_kernels()
native = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")


def problem(geometry: ConvGeometry, size=(1, 6, 7), seed=0):
    """Floats with exact zeros, latent filters."""
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = size
    x = torch.randint(-3, 4, (batch, geometry.channels, height, width), generator=generator).float()
    return x, torch.randn(geometry.filters, generator=generator)


def run(kernel, x, filters, geometry, epilogue=None, **kwargs):
    weights = kernels.prepare_weights(packing.pack_weights(filters), geometry, kernel)
    assert kernels.kernel_name(weights) == kernel
    y = kernels.conv2d(kernels.pack(x), weights, geometry, epilogue, **kwargs)
    if kernel != "reference":
        assert cpu.last_kernel() == kernel
    return y


GRID = [square(c, 20, k, padding=k // 2) for c in (1, 3, 31, 63, 64, 65, 192, 256, 1000) for k in (1, 3, 5)]
GRID += [
    square(3, 5, 11, stride=4, padding=5),
    square(64, 33, 11, padding=5),
    square(70, 33, 3, stride=2, padding=1),
    square(128, 32, 3, padding=2, dilation=2),
    # Windows that words would leave partly empty, of few filters and of many: shifted together or not.
    *(square(c, o, 3, padding=1) for c in (8, 16, 40) for o in (16, 640)),
    square(64, 40, 3, stride=3, padding=1, dilation=2),
    square(256, 512, 3, padding=1, groups=16),  # 16 channels a group
    square(512, 128, 3, padding=1, groups=16),  # 32
    square(32, 64, 3, stride=2, padding=1, groups=4),  # 8
    square(24, 12, 3, padding=1, groups=4),  # 6: no whole bytes
    square(130, 26, 3, groups=2),  # 65: across words
    square(256, 96, 3, padding=1, groups=2),  # whole words
    square(20, 20, 5, padding=2, groups=20),  # depthwise
    square(64, 8, 3, padding=6),  # some windows see padding alone
    ConvGeometry(96, 48, (1, 5), (1, 2), (0, 3, 0, 1)),
    ConvGeometry(64, 16, (4, 2), (2, 1), (3, 0, 1, 1), (1, 2)),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("geometry", GRID, ids=str)
def test_sums_are_exact(kernel, geometry):
    x, filters = problem(geometry, (2, 6, 7))
    y = run(kernel, x, filters, geometry, output="int32")
    assert y.dtype == torch.int32
    assert y.is_contiguous()
    assert torch.equal(y.double(), expected_sums(x, filters, geometry))


# As wide as their input, so that kernels may put the pixels of a row side by side.
WIDE = [
    (square(64, 40, 3, padding=1), (2, 17, 17)),
    (square(31, 21, 3, padding=1), (1, 20, 20)),
    (square(16, 16, 3, padding=1), (1, 32, 32)),
    (square(40, 40, 3, padding=1), (2, 17, 16)),
    (square(256, 33, 1), (1, 9, 9)),
    (square(1000, 20, 1), (1, 8, 8)),
    (square(192, 20, 3, padding=2, dilation=2, groups=2), (2, 16, 16)),
    (ConvGeometry(96, 18, (2, 5), padding=(4, 2, 3, 2)), (1, 20, 16)),  # more rows than the input
    (ConvGeometry(64, 16, (5, 7), padding=(4, 5, 4, 1)), (1, 3, 16)),  # taller than the input
    (square(128, 24, 11, padding=5), (1, 40, 33)),
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("geometry", "size"), WIDE, ids=str)
def test_wide_images_are_exact(kernel, geometry, size):
    """Floats and bits in, sums and floats with everything in the epilogue out, in both memory orders."""
    x, filters = problem(geometry, size)
    sums, out = expected_sums(x, filters, geometry), geometry.out_channels
    assert torch.equal(run(kernel, x, filters, geometry, output="int32").double(), sums)
    scale, bias, k = torch.rand(out), torch.randn(out), torch.rand(size[0], geometry.groups, *sums.shape[2:])
    expected = sums.float() * scale.view(1, -1, 1, 1) * k.repeat_interleave(out // geometry.groups, 1)
    epilogue = Epilogue(scale=scale, bias=bias, input_scale=k, relu=True)
    weights = kernels.prepare_weights(packing.pack_weights(filters), geometry, kernel)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = kernels.conv2d_float(x.contiguous(memory_format=layout), weights, geometry, epilogue)
        assert torch.equal(y, (expected + bias.view(1, -1, 1, 1)).relu())


@st.composite
def random_problems(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    channels, out_channels = (groups * draw(st.integers(1, 80)) for _ in range(2))
    kernel, stride, dilation = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(3))
    padding = tuple(draw(st.integers(0, 4)) for _ in range(4))
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height = draw(st.integers(max(1, spans[0] - padding[0] - padding[2]), 20))
    width = draw(st.integers(max(1, spans[1] - padding[1] - padding[3]), 40))
    geometry = ConvGeometry(channels, out_channels, kernel, stride, padding, dilation, groups)
    return geometry, (draw(st.integers(1, 3)), height, width), draw(st.integers(0, 1000))


# One window, which sees padding too.
ONE_WINDOW = ConvGeometry(2, 2, (3, 1), padding=(0, 0, 1, 0), dilation=(3, 1), groups=2)


@settings(deadline=None, max_examples=40)
@given(random_problems())
@example((ONE_WINDOW, (1, 6, 1), 0))
def test_random_shapes_are_exact(case):
    geometry, size, seed = case
    x, filters = problem(geometry, size, seed)
    expected = expected_sums(x, filters, geometry)
    assert expected.shape[2:] == geometry.output_size(*size[1:])
    for kernel in KERNELS:
        assert torch.equal(run(kernel, x, filters, geometry, output="int32").double(), expected), kernel


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_epilogue_rounds_as_float_layers_do(kernel, layout):
    geometry = square(80, 36, 3, padding=1, groups=4)
    x, filters = problem(geometry, (2, 9, 31))
    scale, bias, k = torch.rand(36), torch.randn(36), torch.rand(2, 4, 9, 31)
    sums = expected_sums(x, filters, geometry).float()
    full = sums * scale.view(1, -1, 1, 1) * k.repeat_interleave(9, 1) + bias.view(1, -1, 1, 1)
    cases = {
        Epilogue(): sums,
        Epilogue(scale=scale): sums * scale.view(1, -1, 1, 1),
        Epilogue(bias=bias, relu=True): (sums + bias.view(1, -1, 1, 1)).relu(),
        Epilogue(scale=scale, bias=bias, input_scale=k, relu=True): full.relu(),
    }
    for epilogue, expected in cases.items():
        y = run(kernel, x, filters, geometry, epilogue, layout=layout)
        assert torch.equal(y, expected)
        assert y.is_contiguous(memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("out_channels", [16, 36, 100, 512])
def test_bits_flow_to_the_next_layer(kernel, out_channels):
    """Batch norm before the next sign: a threshold, turned around where gamma is negative."""
    geometry = square(64, out_channels, 3, padding=1, groups=4)
    x, filters = problem(geometry, (2, 5, 6))
    scale, threshold = torch.rand(out_channels) + 0.1, torch.randn(out_channels)
    flip = torch.rand(out_channels) < 0.5
    y = expected_sums(x, filters, geometry).float() * scale.view(1, -1, 1, 1)
    t, f = threshold.view(1, -1, 1, 1), flip.view(1, -1, 1, 1)
    epilogue = Epilogue(scale=scale, threshold=threshold, flip=flip)
    bits = run(kernel, x, filters, geometry, epilogue, output="bits")
    expected = torch.where(torch.where(f, y <= t, y >= t), 1.0, -1.0)
    assert torch.equal(packing.unpack_activations(bits, out_channels), expected)
    assert torch.equal(bits, packing.pack_activations(expected))  # tail bits are zero


@pytest.mark.parametrize("kernel", KERNELS)
def test_floats_in_one_call_are_pack_and_convolve(kernel):
    geometry = square(70, 24, 3, padding=1)
    x, filters = problem(geometry, (2, 6, 7))
    threshold, flip = torch.randint(-1, 2, (70,)).float(), torch.rand(70) < 0.4
    weights = kernels.prepare_weights(packing.pack_weights(filters), geometry, kernel)
    expected = kernels.conv2d(packing.pack_activations(x, threshold, flip), weights, geometry)
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = x.contiguous(memory_format=layout)
        y = kernels.conv2d_float(laid_out, weights, geometry, threshold=threshold, flip=flip)
        assert torch.equal(y, expected)


@native
@pytest.mark.parametrize("shape", [(2, 70, 9, 15), (1, 3, 1, 1), (1, 64, 40, 40), (3, 1000, 2, 3)])
def test_pack_equals_the_definition(shape):
    x = torch.randint(-2, 3, shape).float()
    x[torch.rand(shape) < 0.05] = float("nan")
    threshold, flip = torch.randint(-1, 2, (shape[1],)).float(), torch.rand(shape[1]) < 0.3
    for layout in (torch.contiguous_format, torch.channels_last):
        laid_out = x.contiguous(memory_format=layout)
        for options in ((), (threshold,), (threshold, flip)):
            assert torch.equal(cpu.pack(laid_out, Binarize(*options)), packing.pack_activations(x, *options))


@native
@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_linear_layer_is_a_1x1_convolution(kernel):
    x, w = torch.randn(5, 300), torch.randn(77, 300)
    geometry = ConvGeometry(300, 77)
    rows = x.t()[None, :, None, :].contiguous(memory_format=torch.channels_last)
    y = run(kernel, rows, w.view(77, 300, 1, 1), geometry, layout="nhwc")
    assert torch.equal(y[0, :, 0].t(), signs(x) @ signs(w).t())


@native
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_answer(threads):
    geometry = square(96, 64, 3, padding=1)
    x, filters = problem(geometry, (3, 20, 20))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for kernel in cpu.available_kernels():
            y = run(kernel, x, filters, geometry, output="int32")
            assert torch.equal(y.double(), expected_sums(x, filters, geometry))
    finally:
        torch.set_num_threads(before)


@native
def test_concurrent_calls_agree():
    geometry = square(128, 96, 3, padding=1)
    x, filters = problem(geometry, (2, 14, 14))
    expected, wrong = expected_sums(x, filters, geometry), []

    def work(kernel):
        for _ in range(5):
            y = run(kernel, x, filters, geometry, output="int32")
            if not torch.equal(y.double(), expected):
                wrong.append(kernel)

    threads = [threading.Thread(target=work, args=(k,)) for k in cpu.available_kernels() for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("kernel", KERNELS)
def test_environment_forces_the_kernel(kernel, monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", kernel)
    geometry = square(64, 32, 3, padding=1)
    x, filters = problem(geometry)
    weights = kernels.prepare_weights(packing.pack_weights(filters), geometry)
    assert kernels.kernel_name(weights) == kernel
    y = kernels.conv2d(kernels.pack(x), weights, geometry, output="int32")
    assert torch.equal(y.double(), expected_sums(x, filters, geometry))


@native
def test_an_unknown_kernel_is_refused(monkeypatch):
    monkeypatch.setenv("XNORKIT_KERNEL", "sse2")
    with pytest.raises(ValueError, match=r"kernel 'sse2' is not one this machine can run: scalar"):
        kernels.prepare_weights(torch.zeros(1, 8).byte(), ConvGeometry(64, 1))
