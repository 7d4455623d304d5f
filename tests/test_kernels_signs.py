"""Signs of sums: where scales, biases and thresholds are extreme, and behind 1x1 filters of every length."""

import itertools

import pytest
import torch

from quantize import kernels, packing
from quantize.kernels import ConvGeometry, Epilogue

INF, NAN = float("inf"), float("nan")
SCALES = (1.0, -1.0, 0.0, -0.0, 1e-3, -7.5, 1e-45, 3e38, INF, -INF, NAN)
BIASES = (0.0, 0.3, -4.0, 1e30, INF, NAN)
THRESHOLDS = (0.0, -0.0, 1.0, -3.5, 1e-3, -1e30, INF, -INF, NAN)


def cases(finite: str) -> torch.Tensor:
    """(combinations, 3): scale, bias, threshold of a channel."""
    all_of_them = torch.tensor(list(itertools.product(SCALES, BIASES, THRESHOLDS)))
    kept = [i for i, name in enumerate(("scale", "bias")) if name in finite]
    return all_of_them[all_of_them[:, kept].isfinite().all(1)]


@pytest.mark.parametrize("kernel", kernels.available_kernels())
@pytest.mark.parametrize("pixels", [40, 140])  # with few of them floats are compared, with many the sums
@pytest.mark.parametrize("finite", ["scale", "bias", "scale and bias"])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shuffle", [1, 3])
def test_signs_are_those_of_the_floats(kernel, pixels, finite, relu, shuffle):
    scale, bias, threshold = cases(finite).T.contiguous()
    out = len(scale)
    geometry = ConvGeometry(34, out, (1, 3), padding=(0, 1, 0, 1))
    words = packing.pack_activations(torch.randn(1, 34, 1, pixels))  # sums are even: often 0
    weights = kernels.prepare_weights(packing.pack_weights(torch.randn(geometry.filters)), geometry, kernel)
    floats = {"scale": scale, "bias": bias, "relu": relu, "shuffle": shuffle}
    flip = torch.arange(out) % 2 == 0
    y = kernels.conv2d(words, weights, geometry, Epilogue(**floats))

    def moved(values: torch.Tensor) -> torch.Tensor:
        return values.view(shuffle, -1).T.reshape(-1)

    found = kernels.conv2d(words, weights, geometry, Epilogue(**floats, threshold=threshold, flip=flip), "bits")
    assert torch.equal(found, packing.pack_activations(y, moved(threshold), moved(flip)))


@pytest.mark.parametrize("kernel", kernels.available_kernels())
@pytest.mark.parametrize("channels", [96, 128, 160, 192, 224, 256, 288])  # a group, of 3 to 9 halves of a word
def test_one_tap_in_rows_of_channels(kernel, channels):
    """1x1 convolutions to bits and channels-last take another way through a kernel than those to planes."""
    geometry = ConvGeometry(2 * channels, 24, groups=2)
    x, filters = torch.randn(2, 2 * channels, 5, 13), torch.randn(geometry.filters)
    weights = kernels.prepare_weights(packing.pack_weights(filters), geometry, kernel)
    expected = torch.nn.functional.conv2d(x.sign().double(), filters.sign().double(), groups=2).float()
    words = packing.pack_activations(x)
    assert torch.equal(kernels.conv2d(words, weights, geometry, None, "int32", "nhwc").float(), expected)
    assert torch.equal(kernels.conv2d(words, weights, geometry, None, "bits"), packing.pack_activations(expected))
