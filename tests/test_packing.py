"""Bits against the definition written out in plain Python."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize import packing

pytestmark = pytest.mark.core


def words_by_hand(signs: list[float]) -> list[int]:
    """A pixel's words: bit c of word c // 64 is 1 where channel c is +1; as signed 64-bit integers."""
    words = [0] * ((len(signs) + 63) // 64)
    for c, value in enumerate(signs):
        words[c // 64] |= (value > 0) << (c % 64)
    return [word - (1 << 64) if word >> 63 else word for word in words]


@pytest.mark.parametrize("channels", [1, 3, 31, 63, 64, 65, 192, 256, 1000])
def test_activations_are_words_of_channels(channels):
    x = torch.randn(2, channels, 2, 3)
    words = packing.pack_activations(x)
    assert words.dtype == torch.int64
    assert words.shape == (2, 2, 3, packing.words_for(channels))
    assert words[1, 0, 2].tolist() == words_by_hand(x[1, :, 0, 2].tolist())
    assert torch.equal(packing.unpack_activations(words, channels), torch.where(x >= 0, 1.0, -1.0))


def test_special_values():
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([0.0, -0.0, nan, -nan, inf, -inf, 1e-45, -1e-45]).view(1, 8, 1, 1)
    assert packing.pack_activations(x).item() == 0b01010011
    assert packing.pack_activations(x, flip=torch.ones(8, dtype=torch.bool)).item() == 0b10100011
    always = torch.tensor([-inf] * 6 + [inf] * 2)
    assert packing.pack_activations(x, always).item() == 0b00110011


def test_threshold_and_flip_are_per_channel():
    x = torch.tensor([0.5, 0.5, 0.5, 1.0, 1.0, 0.4]).view(1, 6, 1, 1)
    threshold = torch.tensor([0.5, 0.6, 0.4, 1.0, 0.9, 0.5])
    flip = torch.tensor([False, False, True, True, True, True])
    assert packing.pack_activations(x, threshold, flip).item() == 0b101001


@settings(deadline=None, max_examples=40)
@given(st.tuples(st.integers(1, 5), st.integers(1, 130), st.integers(1, 4), st.integers(1, 4)), st.integers(0, 99))
def test_weights_are_dense_filters(shape, seed):
    filters = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()
    dense = packing.pack_weights(filters)
    stream = (filters >= 0).permute(0, 2, 3, 1).flatten(1).numpy()
    assert np.array_equal(dense.numpy(), np.packbits(stream, axis=1, bitorder="little"))
    assert torch.equal(packing.unpack_weights(dense, shape), torch.where(filters >= 0, 1.0, -1.0))
    packing.check_weights(dense, shape)


def test_sixteen_channels_a_group_are_a_32nd_of_float():
    filters = torch.randn(512, 16, 3, 3)
    assert packing.pack_weights(filters).numel() * 32 == filters.numel() * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: packing.pack_activations(torch.zeros(1, 2, 3)), r"x is float32 \(1, 2, 3\); .*\(N, C, H, W\)"),
        (lambda: packing.pack_activations(torch.zeros(1, 2, 3, 3).double()), "x is float64"),
        (lambda: packing.unpack_activations(torch.zeros(1, 1, 1, 2).long(), 64), "64 channels has 1 words.* has 2"),
        (lambda: packing.unpack_weights(torch.zeros(4, 2).byte(), (4, 3, 3, 3)), r"are \(4, 4\); got \(4, 2\)"),
        (lambda: packing.unpack_weights(torch.zeros(4, 4), (4, 3, 3, 3)), "weights is float32"),
        (lambda: packing.check_weights(torch.full((4, 4), 255).byte(), (4, 3, 3, 3)), "bits set past a filter's end"),
    ],
)
def test_errors_name_the_value_and_the_fix(call, message):
    with pytest.raises(ValueError, match=message):
        call()
