"""The Triton kernels: on a GPU where there is one, and through Triton's interpreter in `make test-triton`.

Each result is compared with a float convolution of +-1 in double precision, and is the CPU engine's to the last bit.
Shapes are small: the interpreter takes a tenth of a second for a tap of a tile.
"""

import copy
import itertools
import os

import pytest
import torch
from kernel_problems import expected_sums, square
from torch import nn

import quantize
from quantize import kernels, packing
from quantize.kernels import ConvGeometry, Epilogue, PoolGeometry, cpu, reference

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
if not GPU and os.environ.get("TRITON_INTERPRET") != "1":
    reason = "no GPU, and TRITON_INTERPRET is not 1: make test-triton runs this file through the interpreter"
    pytest.skip(reason, allow_module_level=True)
pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built"),
]


@pytest.fixture(autouse=True)
def on_triton(monkeypatch):
    if not GPU:
        monkeypatch.setenv("XNORKIT_KERNEL", "triton")  # for CPU tensors, through the interpreter
    return monkeypatch


def column(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


def problem(geometry: ConvGeometry, size=(2, 6, 7)):
    batch, height, width = size
    return torch.randint(-3, 4, (batch, geometry.channels, height, width)).float(), torch.randn(geometry.filters)


def moved(epilogue: Epilogue) -> Epilogue:
    return Epilogue(*(v.to(DEVICE) if isinstance(v, torch.Tensor) else v for v in epilogue))


def run(x, filters, geometry, epilogue=None, **kwargs) -> torch.Tensor:
    """The kernels' answer, on the CPU; it equals the CPU engine's."""
    epilogue = epilogue or Epilogue()
    dense, words = packing.pack_weights(filters), packing.pack_activations(x)
    weights = kernels.prepare_weights(dense.to(DEVICE), geometry)
    assert kernels.kernel_name(weights) == "triton"
    y = kernels.conv2d(words.to(DEVICE), weights, geometry, moved(epilogue), **kwargs)
    own = kernels.conv2d(words, kernels.prepare_weights(dense, geometry, "scalar"), geometry, epilogue, **kwargs)
    assert y.dtype == own.dtype
    assert y.stride() == own.stride()
    torch.testing.assert_close(y.cpu(), own, rtol=0, atol=0, equal_nan=True)
    return y.cpu()


GRID = [
    *(square(c, 20, 1) for c in (1, 31, 32, 64, 65, 192)),
    square(64, 33, 3, padding=1),
    square(70, 40, 3, stride=2, padding=1),
    square(96, 32, 3, padding=2, dilation=2),
    square(1000, 64, 1),
    square(20, 8, 3, padding=6, stride=4),  # some windows see padding alone
    square(128, 64, 1, groups=2),  # whole words
    square(256, 40, 1, groups=4),
    square(130, 26, 2, groups=2),  # 65: across words
    square(24, 12, 2, groups=4),  # 6: no whole bytes
    square(5, 10, 2, groups=5),  # depthwise
    ConvGeometry(96, 48, (1, 5), (1, 2), (0, 3, 0, 1)),
    ConvGeometry(64, 16, (4, 2), (2, 1), (3, 0, 1, 1), (1, 2)),
]


@pytest.mark.parametrize("geometry", GRID, ids=str)
def test_sums_are_exact(geometry):
    x, filters = problem(geometry)
    y = run(x, filters, geometry, output="int32")
    assert torch.equal(y.double(), expected_sums(x, filters, geometry))


def test_more_pixels_and_outputs_than_a_tile():
    geometry = square(40, 70, 1)
    x, filters = problem(geometry, (3, 9, 11))
    assert torch.equal(run(x, filters, geometry, output="int32").double(), expected_sums(x, filters, geometry))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("parts", list(itertools.product([False, True], repeat=4)), ids=str)
def test_epilogue_rounds_as_float_layers_do(layout, parts):
    geometry = square(66, 18, 1, groups=2)
    x, filters = problem(geometry, (2, 3, 7))
    values = (torch.rand(18), torch.randn(18), torch.rand(2, 2, 3, 7))
    scale, bias, k = (v if has else None for v, has in zip(values, parts, strict=False))
    y = expected_sums(x, filters, geometry).float()
    y = y if scale is None else y * column(scale)
    y = y if k is None else y * k.repeat_interleave(9, 1)
    y = y if bias is None else y + column(bias)
    y = y.relu() if parts[3] else y
    assert torch.equal(run(x, filters, geometry, Epilogue(scale, bias, k, parts[3]), layout=layout), y)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("out", "groups", "shuffle"), [(20, 1, 1), (64, 1, 1), (100, 1, 4), (96, 3, 1), (36, 2, 3)])
def test_bits_flow_to_the_next_layer(out, groups, shuffle, flipped):
    geometry = square(36, out, 1, groups=groups)
    x, filters = problem(geometry, (2, 2, 5))
    scale, threshold = torch.rand(out) + 0.1, torch.randint(-2, 3, (out,)).float()
    flip = torch.rand(out) < 0.5 if flipped else None
    y, t = expected_sums(x, filters, geometry).float() * column(scale), column(threshold)
    is_one = torch.where(column(flip), y <= t, y >= t) if flipped else y >= t
    bits = torch.where(is_one, 1.0, -1.0)
    bits = bits.unflatten(1, (shuffle, -1)).transpose(1, 2).flatten(1, 2)
    epilogue = Epilogue(scale=scale, threshold=threshold, flip=flip, shuffle=shuffle)
    assert torch.equal(run(x, filters, geometry, epilogue, output="bits"), packing.pack_activations(bits))


@pytest.mark.parametrize("output", ["float32", "int32"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_shuffled_channels(output, layout):
    geometry = square(32, 30, 1, groups=2)
    x, filters = problem(geometry, (2, 2, 5))
    y = expected_sums(x, filters, geometry).unflatten(1, (5, -1)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(run(x, filters, geometry, Epilogue(shuffle=5), output=output, layout=layout).double(), y)


EXTREMES = (0.0, -0.0, 1.0, -3.5, 1e-45, 3e38, -1e30, float("inf"), float("-inf"), float("nan"))


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of numpy, which the interpreter calls
@pytest.mark.parametrize("output", ["float32", "bits"])
def test_extreme_scales_biases_and_thresholds(output):
    scale, bias, threshold = torch.tensor(list(itertools.product(EXTREMES, EXTREMES, EXTREMES[:5]))).T.contiguous()
    geometry = ConvGeometry(34, len(scale))
    x, filters = problem(geometry, (1, 1, 3))
    flip = torch.arange(len(scale)) % 2 == 0
    for relu in (False, True):
        run(x, filters, geometry, Epilogue(scale, bias, None, relu, threshold, flip), output=output)  # the CPU's


@pytest.mark.parametrize("shape", [(2, 70, 9, 15), (1, 3, 1, 1), (3, 200, 2, 3)])
def test_pack_equals_the_definition(shape):
    x = torch.randint(-2, 3, shape).float()
    x[torch.rand(shape) < 0.05] = float("nan")
    threshold, flip = torch.randint(-1, 2, (shape[1],)).float(), torch.rand(shape[1]) < 0.3
    for values in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3)):
        for options in ((), (threshold,), (None, flip), (threshold, flip)):
            on_device = [None if option is None else option.to(DEVICE) for option in options]
            found = kernels.pack(values.to(DEVICE), *on_device).cpu()
            assert torch.equal(found, packing.pack_activations(values, *options))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_floats_in_one_call_are_pack_and_convolve(layout):
    geometry = square(70, 24, 1)
    x, filters = problem(geometry)
    threshold, flip = torch.randint(-1, 2, (70,)).float(), torch.rand(70) < 0.4
    expected = run(packing.unpack_activations(packing.pack_activations(x, threshold, flip), 70), filters, geometry)
    weights = kernels.prepare_weights(packing.pack_weights(filters).to(DEVICE), geometry)
    x = x.contiguous(memory_format=layout).to(DEVICE)
    found = kernels.conv2d_float(x, weights, geometry, threshold=threshold.to(DEVICE), flip=flip.to(DEVICE))
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_floats_are_rounded_once_at_the_end(dtype, layout):
    geometry = square(34, 18, 1)
    x, filters = torch.randn(2, 34, 3, 5).to(dtype), torch.randn(18, 34, 1, 1)
    threshold = x[0, :, 0, 0].float()  # equal to some
    scale, bias = torch.rand(18), torch.randn(18)
    signs_of_x = torch.where(x.float() >= column(threshold), 1.0, -1.0)
    y = expected_sums(signs_of_x, filters, geometry).float() * column(scale) + column(bias)
    weights = kernels.prepare_weights(packing.pack_weights(filters).to(DEVICE), geometry)
    epilogue = moved(Epilogue(scale, bias))
    found = kernels.conv2d_float(
        x.to(DEVICE), weights, geometry, epilogue, layout=layout, threshold=threshold.to(DEVICE)
    )
    assert found.dtype == dtype
    if dtype is torch.bfloat16 and not GPU:  # the interpreter cuts bits off instead
        torch.testing.assert_close(found.float(), y, rtol=2**-7, atol=0)
    else:
        assert torch.equal(found.cpu(), y.to(dtype))


@pytest.mark.skipif(not GPU, reason="packed layers take half floats on a GPU alone")
@pytest.mark.parametrize("scheme", ["xnor", "xnor:input_scale=True"])
def test_a_layer_gives_half_floats_for_half_floats(scheme):
    x = torch.randn(2, 64, 6, 6).bfloat16()
    layer = quantize.convert(quantize.prepare(nn.Conv2d(64, 32, 3), scheme, keep_float=()).eval(), x.float()).to(DEVICE)
    found = layer(x.to(DEVICE))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, layer(x.to(DEVICE).float()).bfloat16())


POOLS = [  # kernel, stride, padding, dilation, output of 9 x 8
    PoolGeometry((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (5, 4)),
    PoolGeometry((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (5, 4)),  # the last row reaches past the image
    PoolGeometry((2, 3), (1, 3), (0, 1, 0, 0), (3, 2), (6, 2)),
    PoolGeometry((1, 3), (1, 2), (0, 0, 0, 1), (1, 1), (9, 4)),  # so does the last column
]


@pytest.mark.parametrize("geometry", POOLS, ids=str)
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("channels", [3, 64, 200])
def test_max_pooling(geometry, flipped, channels):
    words = packing.pack_activations(torch.randn(2, channels, 9, 8))
    flip = torch.rand(channels) < 0.5 if flipped else None
    found = kernels.max_pool2d(words.to(DEVICE), channels, geometry, None if flip is None else flip.to(DEVICE))
    assert torch.equal(found.cpu(), reference.max_pool2d(words, channels, geometry, flip))


@pytest.mark.parametrize("geometry", GRID, ids=str)
def test_weights_are_one_bit_each_and_come_back(geometry):
    dense = packing.pack_weights(torch.randn(geometry.filters)).to(DEVICE)
    weights = kernels.prepare_weights(dense, geometry)
    assert torch.equal(kernels.dense_weights(weights, geometry), dense)
    assert weights.data.numel() * 4 < dense.numel() + 4 * geometry.out_channels


class Net(nn.Sequential):
    """Bits from layer to layer, a pool and a shuffle between them, and a linear layer at the end."""

    def __init__(self):
        super().__init__(
            *(nn.BatchNorm2d(8), nn.Conv2d(8, 32, 3, stride=2, padding=1, bias=False), nn.MaxPool2d(2)),
            *(nn.ChannelShuffle(4), nn.BatchNorm2d(32), nn.Conv2d(32, 40, 1, groups=4)),
            *(nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(160), nn.Linear(160, 10)),
        )


@pytest.fixture
def net(monkeypatch):
    """The packed network before it was moved, its input, and its output as the CPU computes it."""
    with monkeypatch.context() as on_cpu:
        on_cpu.delenv("XNORKIT_KERNEL", raising=False)
        x = torch.randn(3, 8, 8, 8)
        prepared = quantize.prepare(Net(), "xnor", x, keep_float=())
        for module in prepared.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias, std=0.3)
        packed = quantize.convert(prepared.eval(), x)
        expected = packed(x)
        torch.testing.assert_close(expected, prepared(x), rtol=1e-5, atol=1e-5)
    return packed, x, expected


def test_a_network_moves_to_the_device_and_back(net, on_triton):
    packed, x, expected = net
    state, there = packed.state_dict(), copy.deepcopy(packed).to(DEVICE)
    assert torch.equal(there(x.to(DEVICE)).cpu(), expected)
    layers = [m for m in there.modules() if isinstance(m, quantize.packed.PackedLayer)]
    assert [layer.folding.output_bits for layer in layers] == [True, False, False]
    assert all(layer.weights.dtype == torch.int32 for layer in layers)
    for key, value in there.state_dict().items():
        assert value == state[key] if isinstance(value, dict) else torch.equal(value.cpu(), state[key]), key
    there.load_state_dict(state)
    assert torch.equal(there(x.to(DEVICE)).cpu(), expected)
    on_triton.delenv("XNORKIT_KERNEL", raising=False)
    assert torch.equal(there.to("cpu")(x), expected)
    assert all(layer.weights.dtype == torch.uint8 for layer in layers)


def test_export_and_compile(net):
    packed, x, expected = net
    packed, x = packed.to(DEVICE), x.to(DEVICE)
    assert torch.equal(packed(x).cpu(), expected)  # prepares the weights
    assert torch.equal(torch.export.export(packed, (x,)).module()(x).cpu(), expected)
    assert torch.equal(torch.compile(packed, fullgraph=True, backend="aot_eager")(x).cpu(), expected)
    torch.compiler.reset()


WRONG = {
    "a channel less": ({"x": torch.zeros(1, 63, 4, 4)}, "x has 63 channels; the convolution takes 64"),
    "of another type": ({"x": torch.zeros(1, 64, 4, 4, dtype=torch.float64)}, "it must be float32"),
    "no image": ({"x": torch.zeros(0, 64, 4, 4)}, "batch is 0"),
    "smaller than the window": ({"x": torch.zeros(1, 64, 2, 4)}, "output height is 0"),
    "another scale": ({"epilogue": Epilogue(scale=torch.ones(31))}, r"scale has shape \(31,\); it must be \(32,\)"),
    "a shuffle": ({"epilogue": Epilogue(shuffle=5)}, "shuffle is 5; it must divide the 32"),
    "finished integers": ({"epilogue": Epilogue(relu=True), "output": "int32"}, "holds bare sums"),
    "an unknown output": ({"output": "float16"}, "output is 'float16'; valid: float32, int32, bits"),
    "an unknown layout": ({"layout": "nhw"}, "layout is 'nhw'; valid: nchw, nhwc"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_have_clear_errors(name):
    changes, message = WRONG[name]
    geometry = square(64, 32, 3)
    weights = kernels.prepare_weights(packing.pack_weights(torch.randn(geometry.filters)).to(DEVICE), geometry)
    options = {"x": torch.zeros(1, 64, 4, 4), "epilogue": Epilogue(), **changes}
    options |= {"x": options["x"].to(DEVICE), "epilogue": moved(options["epilogue"])}
    with pytest.raises(ValueError, match=message):
        kernels.conv2d_float(options.pop("x"), weights, geometry, **options)


def test_windows_of_padding_are_refused():
    words = torch.zeros(1, 2, 2, 1, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="lies in the padding"):
        kernels.max_pool2d(words, 3, PoolGeometry((1, 1), (1, 1), (1, 0, 0, 0), (1, 1), (3, 2)))
