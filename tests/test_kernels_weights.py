"""Weights in a kernel's order, and back to the dense ones they were made from."""

import pytest
import torch

from quantize import kernels, packing
from quantize.kernels import ConvGeometry, cpu, reference

KERNELS = kernels.available_kernels()
GRID = [ConvGeometry(c, 17, (k, k)) for c in (1, 3, 63, 64, 65, 192, 1000) for k in (1, 3, 5)]
GRID += [
    ConvGeometry(70, 33, (3, 3), stride=(2, 2), dilation=(2, 2)),
    ConvGeometry(64, 16, (4, 2)),
    ConvGeometry(256, 512, (3, 3), groups=16),  # 16 channels a group
    ConvGeometry(24, 12, (3, 3), groups=4),  # 6: no whole bytes
    ConvGeometry(130, 26, (3, 3), groups=2),  # 65: across words
    ConvGeometry(256, 96, (3, 3), groups=2),  # whole words
    ConvGeometry(20, 20, (5, 5), groups=20),  # depthwise
]


def dense_weights(geometry: ConvGeometry) -> torch.Tensor:
    return packing.pack_weights(torch.randn(geometry.filters))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("geometry", GRID, ids=str)
def test_dense_weights_come_back(kernel, geometry):
    dense = dense_weights(geometry)
    prepared = kernels.prepare_weights(dense, geometry, kernel)
    assert kernels.kernel_name(prepared) == kernel
    assert torch.equal(kernels.dense_weights(prepared, geometry), dense)


@pytest.mark.parametrize("kernel", cpu.available_kernels())
def test_prepared_weights_of_another_geometry_are_refused(kernel):
    geometry = ConvGeometry(70, 20, (3, 3))
    prepared = cpu.prepare_weights(dense_weights(geometry), geometry, kernel)
    for other in (ConvGeometry(70, 21, (3, 3)), ConvGeometry(70, 20, (3, 1)), ConvGeometry(140, 20, (3, 3), groups=2)):
        with pytest.raises(ValueError, match="packed weights are for another shape"):
            cpu.dense_weights(prepared, other)
    for damaged in (prepared[:-8].clone(), prepared[:20].clone(), torch.zeros_like(prepared)):
        with pytest.raises(ValueError, match="weights"):
            cpu.dense_weights(damaged, geometry)
    for byte in range(64):
        damaged = prepared.clone()
        damaged[byte] ^= 0x15
        with pytest.raises(ValueError, match="weights"):
            cpu.dense_weights(damaged, geometry)


@pytest.mark.skipif(not cpu.is_available(), reason="the native library was not built")
def test_what_is_not_prepared_weights_is_refused():
    geometry = ConvGeometry(70, 20, (3, 3))
    with pytest.raises(ValueError, match="weights is int64; it must be uint8"):
        cpu.dense_weights(torch.zeros(3000, dtype=torch.int64), geometry)
    with pytest.raises(ValueError, match="weights is on meta"):
        cpu.dense_weights(torch.zeros(3000, dtype=torch.uint8, device="meta"), geometry)
    with pytest.raises(ValueError, match="weights is not contiguous"):
        cpu.dense_weights(torch.zeros(3000, dtype=torch.uint8)[::2], geometry)


def test_the_reference_refuses_weights_of_another_geometry():
    dense = dense_weights(ConvGeometry(70, 20, (3, 3)))
    with pytest.raises(ValueError, match=r"packed weights of filters \(20, 64, 3, 3\) are \(20, 72\); got \(20, 79\)"):
        reference.dense_weights(dense, ConvGeometry(64, 20, (3, 3)))
