"""What the kernels refuse, and how: one clear sentence, before any memory is touched."""

import subprocess
import sys

import pytest
import torch

from quantize import kernels, packing
from quantize.kernels import Binarize, ConvGeometry, Epilogue, cpu

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")

GEOMETRY = ConvGeometry(70, 20, (3, 3), padding=(1, 1, 1, 1))
DENSE = packing.pack_weights(torch.randn(GEOMETRY.filters))
WORDS = torch.zeros(2, 6, 6, 2, dtype=torch.int64)


def prepared(geometry=GEOMETRY, dense=DENSE):
    return cpu.prepare_weights(dense, geometry)


def geometry(**changes) -> ConvGeometry:
    options = {"channels": 70, "out_channels": 20, "kernel": (3, 3), "padding": (1, 1, 1, 1)}
    return ConvGeometry(**(options | changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (WORDS.int(), "words is int32; it must be int64"),
        (WORDS[..., :1], r"words has shape \(2, 6, 6, 1\); it must be \(2, 6, 6, 2\)"),
        (WORDS[0], r"words has shape \(6, 6, 2\)"),
        (WORDS.transpose(1, 2), "words is not contiguous"),
        (WORDS.to("meta"), "words is on meta; native kernels take CPU tensors"),
        (WORDS[:0], "batch is 0; it must be between 1"),
        (WORDS[:, :0], "height is 0"),
    ],
)
def test_bad_bits(words, message):
    with pytest.raises(ValueError, match=message):
        cpu.conv2d(words, prepared(), GEOMETRY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": (0, 1)}, "stride_h is 0"),
        ({"dilation": (1, -1)}, "dilation_w is -1"),
        ({"padding": (-1, 0, 0, 0)}, "pad_top is -1"),
        ({"padding": (2**62, 0, 2**62, 0)}, "pad_top is 4611686018427387904; it must be between 0 and 2"),
        ({"padding": (2**39, 2**39, 0, 0)}, "size of the padded input is over"),
        ({"dilation": (5, 5)}, "padded input height is 8, less than the 11 that the dilated kernel spans"),
        ({"out_channels": 24}, "packed weights are for another shape than 70 -> 24"),
        ({"kernel": (1, 3)}, "packed weights are for another shape"),
        ({"groups": 3}, r"channels \(70\) and out_channels \(20\) must be multiples of groups \(3\)"),
        ({"groups": 0}, "groups is 0"),
    ],
)
def test_bad_geometry(changes, message):
    with pytest.raises(ValueError, match=message):
        cpu.conv2d(WORDS, prepared(), geometry(**changes))


@pytest.mark.parametrize(
    ("epilogue", "message"),
    [
        (Epilogue(scale=torch.ones(19)), r"scale has shape \(19,\); it must be \(20,\)"),
        (Epilogue(bias=torch.ones(20).double()), "bias is float64"),
        (Epilogue(input_scale=torch.ones(2, 1, 5, 6)), r"input_scale has shape .* must be \(2, 1, 6, 6\)"),
        (Epilogue(relu=True, output="int32"), "int32 output holds bare sums"),
        (Epilogue(threshold=torch.ones(1), output="bits"), "threshold has shape"),
        (Epilogue(flip=torch.ones(20), output="bits"), "flip is float32; it must be bool"),
        (Epilogue(output="int8"), "output is 'int8'; valid: float32, int32, bits"),
    ],
)
def test_bad_epilogue(epilogue, message):
    with pytest.raises(ValueError, match=message):
        cpu.conv2d(WORDS, prepared(), GEOMETRY, epilogue)


@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_damaged_weights(kernel):
    weights = cpu.prepare_weights(DENSE, GEOMETRY, kernel)
    for damaged in (weights[:-8].clone(), weights[:20].clone(), torch.zeros_like(weights)):
        with pytest.raises(ValueError, match="weights"):
            cpu.conv2d(WORDS, damaged, GEOMETRY)
    for byte in range(64):
        damaged = weights.clone()
        damaged[byte] ^= 0x15
        with pytest.raises(ValueError, match="weights"):
            cpu.conv2d(WORDS, damaged, GEOMETRY)
    with pytest.raises(ValueError, match="not weights that prepare_weights made"):
        cpu.kernel_name(torch.zeros(200, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(2, 3, 4), {}, r"x has shape \(2, 3, 4\)"),
        (torch.zeros(2, 3, 4, 4).half(), {}, "x is float16"),
        (torch.zeros(2, 3, 8, 4)[:, :, ::2], {}, "x is not contiguous"),
        (torch.zeros(0, 3, 4, 4), {}, "batch is 0; it must be between 1"),
        (torch.zeros(2, 3, 4, 4), {"threshold": torch.zeros(4)}, r"threshold has shape \(4,\); it must be \(3,\)"),
    ],
)
def test_bad_input_to_pack(x, options, message):
    with pytest.raises(ValueError, match=message):
        cpu.pack(x, Binarize(**options))


def test_floats_with_other_channels():
    with pytest.raises(ValueError, match="x has 71 channels; the convolution takes 70"):
        cpu.conv2d_float(torch.zeros(1, 71, 6, 6), prepared(), GEOMETRY)


def test_without_the_library_the_reference_runs_and_one_warning_says_so():
    script = """
import warnings, torch
from quantize import kernels, packing
from quantize.kernels import ConvGeometry, library
library.load = lambda: None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        g = ConvGeometry(64, 16)
        weights = kernels.prepare_weights(packing.pack_weights(torch.ones(g.filters)), g)
        y = kernels.conv2d(kernels.pack(torch.ones(1, 64, 2, 2)), weights, g, output="int32")
assert kernels.available_kernels() == ["reference"] == [kernels.kernel_name(weights)]
assert y.unique().tolist() == [64]
print(len(caught), caught[0].message)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("1 the native library libxnorkit")


def test_kernels_of_the_library_are_listed_after_the_reference():
    names = kernels.available_kernels()
    assert names[:2] == ["reference", "scalar"]
    assert len(set(names)) == len(names)
