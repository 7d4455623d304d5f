"""The tiles of a convolution that are tried on a device, once a shape."""

import triton

from .arguments import INTERPRETED

# Pixels, outputs and bits of a tile; warps, stages. A tile has at most 16 pixels a warp: with more, a thread would
# hold whole rows of bytes, which the compiler then moves to the tensor cores one by one. 128 registers a thread at most
# let 16 warps share a multiprocessor, so that one block expands bits while the tensor cores work for another.
_TILES = (
    (128, 128, 128, 8, 3),
    (128, 128, 64, 8, 4),
    (256, 128, 128, 16, 3),
    (128, 256, 128, 16, 3),
    (128, 64, 128, 8, 3),
    (64, 64, 128, 4, 4),
    (64, 64, 64, 4, 4),
    (64, 32, 128, 4, 4),
    (32, 64, 128, 4, 4),
    (32, 32, 128, 2, 4),
    (16, 32, 128, 2, 4),
)
_INTERPRETED = ((128, 32, 128, 4, 1),)  # the interpreter takes as long for a small tile as for a large one
REGISTERS = 128
TRIED = 4  # each takes a second or two to compile

# Of an H200; other devices differ in all times alike.
_MULTIPROCESSORS, _RESIDENT_WARPS = 132, 16
_PRODUCTS_A_CYCLE = 4096  # int8, a multiprocessor
_SCHEDULERS, _LANES = 4, 32


def _config(pixels: int, outputs: int, bits: int, warps: int, stages: int) -> triton.Config:
    sizes = {"BLOCK_P": pixels, "BLOCK_O": outputs, "BLOCK_K": bits}
    return triton.Config(sizes, num_warps=warps, num_stages=stages, maxnreg=REGISTERS)


CONFIGS = [_config(*tile) for tile in (_INTERPRETED if INTERPRETED else _TILES)]


def estimate(
    *, pixels, CHANNELS, OUT_CHANNELS, GROUPS, KH, KW, BLOCK_P, BLOCK_O, BLOCK_K, num_warps, **_
) -> float:  # fmt: skip
    """Cycles that a convolution takes at best: waves of blocks, each bound by its products or its instructions.

    A step of a block takes ``P O K / 4096`` cycles of the tensor cores and issues three instructions for four bytes
    of both operands and about a hundred a warp besides, counted in the code for sm_90.
    """
    blocks = GROUPS * triton.cdiv(OUT_CHANNELS // GROUPS, BLOCK_O) * triton.cdiv(pixels, BLOCK_P)
    resident = min(max(_RESIDENT_WARPS // num_warps, 1), triton.cdiv(blocks, _MULTIPROCESSORS))
    steps = triton.cdiv(KH * KW * triton.cdiv(CHANNELS // GROUPS, 32), BLOCK_K // 32)
    products = BLOCK_P * BLOCK_O * BLOCK_K / _PRODUCTS_A_CYCLE
    expanding = (BLOCK_P + BLOCK_O) * BLOCK_K * 3 / 4 / _LANES
    issued = (expanding + 100 * num_warps) / _SCHEDULERS
    waves = triton.cdiv(blocks, _MULTIPROCESSORS * resident)
    return waves * steps * max(resident * products, resident * issued, products + issued)
