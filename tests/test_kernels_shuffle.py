"""A convolution whose output channels are shuffled, against the convolution and then the shuffle."""

import pytest
import torch

from quantize import kernels, packing
from quantize.kernels import ConvGeometry, Epilogue, cpu, reference

KERNELS = kernels.available_kernels()
# out_channels, groups of the shuffle, groups of the convolution: lanes of a block in one group or in several.
GRID = [
    (63, 3, 1),
    (64, 2, 1),
    (64, 64, 1),
    (65, 5, 5),
    (96, 4, 2),
    (130, 2, 1),
    (192, 3, 3),
    (192, 64, 1),
    (320, 20, 4),
    (512, 16, 16),  # whole elements of 16, 32 and 64 bits
    (512, 32, 1),
    (1088, 64, 2),
]


def shuffled(y: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, C, H, W) or (C,): group by group, then the first of each, the second of each, ..."""
    dim = y.dim() // 4
    size = y.shape[dim] // groups
    split = y.reshape(*y.shape[:dim], groups, size, *y.shape[dim + 1 :])
    return split.transpose(dim, dim + 1).reshape(y.shape)


def problem(out_channels: int, groups: int):
    """Words of two images, 3x3 filters and their geometry, and an epilogue with everything."""
    geometry = ConvGeometry(20 * groups, out_channels, (3, 3), padding=(1, 1, 1, 1), groups=groups)
    words = packing.pack_activations(torch.randn(2, geometry.channels, 5, 7))
    dense = packing.pack_weights(torch.randn(geometry.filters))
    scale, bias = torch.rand(out_channels) + 0.1, torch.randn(out_channels)
    epilogue = {"scale": scale, "bias": bias, "input_scale": torch.rand(2, groups, 5, 7) + 0.1}
    return words, dense, geometry, epilogue


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("out_channels", "groups", "conv_groups"), GRID)
def test_the_output_is_shuffled(kernel, out_channels, groups, conv_groups):
    words, dense, geometry, options = problem(out_channels, conv_groups)
    weights = kernels.prepare_weights(dense, geometry, kernel)
    for kind, epilogue in (("int32", {}), ("float32", options)):
        expected = shuffled(kernels.conv2d(words, weights, geometry, Epilogue(**epilogue), kind), groups)
        for layout, memory_format in (("nchw", torch.contiguous_format), ("nhwc", torch.channels_last)):
            y = kernels.conv2d(words, weights, geometry, Epilogue(**epilogue, shuffle=groups), kind, layout)
            assert torch.equal(y, expected)
            assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("out_channels", "groups", "conv_groups"), GRID)
def test_bits_are_shuffled(kernel, out_channels, groups, conv_groups):
    """Thresholds and flips are those of the convolution's channels."""
    words, dense, geometry, options = problem(out_channels, conv_groups)
    options |= {"threshold": torch.randn(out_channels), "flip": torch.rand(out_channels) < 0.5}
    weights = kernels.prepare_weights(dense, geometry, kernel)
    y = shuffled(kernels.conv2d(words, weights, geometry, Epilogue(**options)), groups)
    expected = packing.pack_activations(y, shuffled(options["threshold"], groups), shuffled(options["flip"], groups))
    assert torch.equal(kernels.conv2d(words, weights, geometry, Epilogue(**options, shuffle=groups), "bits"), expected)


@pytest.mark.parametrize("backend", [reference, *([cpu] if cpu.is_available() else [])])
@pytest.mark.parametrize("shuffle", [-1, 7, 128])
def test_groups_that_do_not_divide_the_channels(backend, shuffle):
    words, dense, geometry, _ = problem(64, 1)
    weights = backend.prepare_weights(dense, geometry)
    for output in ("float32", "int32", "bits"):
        with pytest.raises(ValueError, match=rf"shuffle is {shuffle}; it must divide the 64 output channels"):
            backend.conv2d(words, weights, geometry, Epilogue(shuffle=shuffle, output=output))


def test_no_shuffle_is_one_group():
    words, dense, geometry, _ = problem(64, 1)
    for kernel in KERNELS:
        weights = kernels.prepare_weights(dense, geometry, kernel)
        expected = kernels.conv2d(words, weights, geometry)
        for shuffle in (0, 1):
            assert torch.equal(kernels.conv2d(words, weights, geometry, Epilogue(shuffle=shuffle)), expected)
