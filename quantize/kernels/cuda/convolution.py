"""The binary convolution: an implicit matrix product of +-1 bytes that are never in device memory.

Pixels by filters by (taps x channels): a step takes words of a tap's channels, or of several taps where they have few,
of a tile of pixels and a tile of filters, expands both to int8 and hands them to the tensor cores (``tl.dot``, int8 x
int8 -> int32, exact). In device memory weights and activations stay bits.

*Expanding.* Four bits become four bytes in three instructions. ``(word >> b) & 0x01010101`` holds the bits b, b + 8,
b + 16 and b + 24, one a byte. With t such a quad of *inverted* bits, ``t * 0xFE + 0x01010101`` is 0x01 (+1) where
the bit was 1 and 0xFF (-1) where it was 0; no byte carries into the next. So element 4 b + j of a word's 32 is its bit
8 j + b: another order than the channels', and the same one for both operands, which a sum does not see.
``tl.join`` keeps the quads in the registers of the thread that has the word; shifts by a broadcast ``arange`` would
spread them over a warp, four times the work. tests/test_triton_compile.py sees that no byte moves by itself.

*Padding* contributes nothing, so its bytes are 0: with ``mask`` ones for real channels and zeros for padding,
t = (word ^ 0xFFFFFFFF) & mask and the byte is ``t * 0xFE + (mask's quad)``, which is 0 where the mask is. A padded
activation is enough; the weight beside it may be anything. (Not ``~word``: Triton's interpreter writes its ones as -1,
which numpy refuses in an unsigned type.)
"""

import threading

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import packing
from ..epilogue import AT_ZERO, PLAIN, Binarize, Epilogue, Layout, check_epilogue
from ..geometry import ConvGeometry
from .arguments import check_indices, checked, checked_flip, device_of, on
from .bits import compare, pack, row_words, signs_to_words
from .tuning import CONFIGS, TRIED, estimate
from .weights import WORD_BITS, filter_words

_launching = threading.Lock()  # Triton's autotuner holds the arguments of a call while it tunes


@triton.jit
def _quad(inverted, mask, b: tl.constexpr):
    return ((inverted >> b) & 0x01010101) * 0xFE + ((mask >> b) & 0x01010101)


@triton.jit
def _expand(word, mask):
    """Words uint32 [rows, n] to int8 [rows, 32 n]: +-1 where the mask's bit is 1, else 0."""
    rows: tl.constexpr = word.shape[0]
    inverted = (word ^ 0xFFFFFFFF) & mask  # ~word, which the interpreter takes for a negative uint32
    even = tl.join(
        tl.join(_quad(inverted, mask, 0), _quad(inverted, mask, 4)),
        tl.join(_quad(inverted, mask, 2), _quad(inverted, mask, 6)),
    )
    odd = tl.join(
        tl.join(_quad(inverted, mask, 1), _quad(inverted, mask, 5)),
        tl.join(_quad(inverted, mask, 3), _quad(inverted, mask, 7)),
    )
    quads = tl.join(even, odd)
    low = tl.join(quads.to(tl.int8), (quads >> 16).to(tl.int8))
    high = tl.join((quads >> 8).to(tl.int8), (quads >> 24).to(tl.int8))
    return tl.reshape(tl.join(low, high), [rows, word.shape[1] * 32])


@triton.jit
def _load_words(row, bit, word, last, mask, WHOLE: tl.constexpr):
    """Words uint32 ``word`` of the bits from ``bit`` on of the rows at ``row``; ``last`` is a row's last word."""
    index = bit // 32 + word
    low = tl.load(row + index, mask=mask, other=0).to(tl.uint32, bitcast=True)
    if WHOLE:
        return low
    high = tl.load(row + index + 1, mask=mask & (index < last), other=0).to(tl.uint32, bitcast=True)
    shift = (bit % 32).to(tl.uint32)
    return (low >> shift) | (high << 1 << (31 - shift))  # a shift by 32 is undefined


@triton.jit
def _sums(
    words, weights, pixel, pixels, output, group,
    CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    ROW: tl.constexpr, FILTER: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The tile of sums, int32 [BLOCK_P, BLOCK_O]."""
    DEPTH: tl.constexpr = CHANNELS // GROUPS
    ALIGNED: tl.constexpr = DEPTH % 32 == 0  # a group's channels, and a tap's weights, are whole words
    WIDTH: tl.constexpr = (DEPTH + 31) // 32  # words of a tap
    PARTS: tl.constexpr = KH * KW * WIDTH
    WORDS: tl.constexpr = BLOCK_K // 32
    y = (pixel // OW % OH * SH - TOP)[:, None]
    x = (pixel % OW * SW - LEFT)[:, None]
    first = words + ((pixel // (OH * OW) * H)[:, None] + y) * (W * ROW) + x * ROW
    inside = (pixel < pixels)[:, None]
    filters = weights + (group * (OUT_CHANNELS // GROUPS) + output)[:, None] * FILTER
    sums = tl.zeros([BLOCK_P, BLOCK_O], tl.int32)
    for step in range((PARTS + WORDS - 1) // WORDS):
        part = step * WORDS + tl.arange(0, WORDS)[None, :]
        # A step is a piece of one tap, or words of several.
        tap = step // (WIDTH // WORDS) if WIDTH % WORDS == 0 else part // WIDTH
        word = part - tap * WIDTH
        down = tap // KW * DH
        right = tap % KW * DW
        read = inside & (y + down >= 0) & (y + down < H) & (x + right >= 0) & (x + right < W) & (part < PARTS)
        start = first + (down * W + right) * ROW
        signs = _load_words(start, group * DEPTH, word, ROW - 1, read, ALIGNED or GROUPS == 1)
        read_taps = (output < OUT_CHANNELS // GROUPS)[:, None] & (part < PARTS)
        taps = _load_words(filters, tap * DEPTH, word, FILTER - 1, read_taps, ALIGNED)
        if ALIGNED:
            mask = tl.where(read, -1, 0)
        else:
            count = DEPTH - word * 32
            mask = tl.where(read, tl.where(count < 32, (1 << tl.maximum(count, 0)) - 1, -1), 0)
        a = _expand(signs, mask.to(tl.uint32, bitcast=True))
        b = _expand(taps, tl.full([1, 1], 0xFFFFFFFF, tl.uint32))
        sums = tl.dot(a, tl.trans(b), sums, out_dtype=tl.int32)
    return sums


@triton.jit
def _epilogue(sums, scale, bias, input_scale, channel, inside, factor, valid, RELU: tl.constexpr):
    """``relu(sums * scale * input_scale + bias)``, each step rounded by itself: the kernel is built without fma."""
    y = sums.to(tl.float32)
    if scale is not None:
        y = y * tl.load(scale + channel, mask=inside, other=0.0)[None, :]
    if input_scale is not None:
        y = y * tl.load(input_scale + factor, mask=valid, other=0.0)[:, None]
    if bias is not None:
        y = y + tl.load(bias + channel, mask=inside, other=0.0)[None, :]
    if RELU:
        y = tl.where(y < 0, 0.0, y)
    return y


# A batch of another size is another shape only where its number of pixels has another number of binary digits.
_KEY = [
    *("size_class", "CHANNELS", "OUT_CHANNELS", "GROUPS", "H", "W", "OH", "OW", "KH", "KW", "SH", "SW", "TOP", "LEFT"),
    *("DH", "DW", "KIND", "NHWC", "SHUFFLE"),
]


@triton.autotune(CONFIGS, _KEY, {"perf_model": estimate, "top_k": TRIED}, cache_results=True)
@triton.jit(do_not_specialize=["pixels", "size_class"])
def conv_kernel(
    words, weights, result, scale, bias, input_scale, threshold, flip, pixels, size_class,
    CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    H: tl.constexpr, W: tl.constexpr, OH: tl.constexpr, OW: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    SH: tl.constexpr, SW: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
    ROW: tl.constexpr, OUT_ROW: tl.constexpr, FILTER: tl.constexpr,
    KIND: tl.constexpr, NHWC: tl.constexpr, RELU: tl.constexpr, SHUFFLE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of BLOCK_P pixels by BLOCK_O outputs of a group. ROW, OUT_ROW, FILTER: words of a pixel, of an output's
    pixel, of a filter. Neighbouring blocks share pixels, which the second finds in the cache.
    """
    OUTPUTS: tl.constexpr = OUT_CHANNELS // GROUPS
    # Bits are written in whole words: the last tile of a row ends with the row's.
    TILES: tl.constexpr = ((OUT_ROW * 32 if KIND == "bits" and GROUPS == 1 else OUTPUTS) + BLOCK_O - 1) // BLOCK_O
    tile = tl.program_id(0) % (GROUPS * TILES)
    group = tile // TILES
    output = tile % TILES * BLOCK_O + tl.arange(0, BLOCK_O)
    pixel = tl.program_id(0) // (GROUPS * TILES) * BLOCK_P + tl.arange(0, BLOCK_P)
    sums = _sums(
        words, weights, pixel, pixels, output, group, CHANNELS, OUT_CHANNELS, GROUPS, H, W, OH, OW, KH, KW,
        SH, SW, TOP, LEFT, DH, DW, ROW, FILTER, BLOCK_P, BLOCK_O, BLOCK_K,
    )  # fmt: skip
    valid = pixel < pixels
    inside = output < OUTPUTS
    channel = group * OUTPUTS + output
    image = (pixel // (OH * OW)).to(tl.int64)
    place = pixel % (OH * OW)
    if KIND != "int32":
        factor = (image * GROUPS + group) * (OH * OW) + place
        sums = _epilogue(sums, scale, bias, input_scale, channel, inside, factor, valid, RELU)
    if KIND == "bits":
        word = group * (OUTPUTS // 32) + tile % TILES * (BLOCK_O // 32) + tl.arange(0, BLOCK_O // 32)
        last = OUT_ROW if GROUPS == 1 else (group + 1) * (OUTPUTS // 32)
        packed = signs_to_words(compare(sums, threshold, flip, channel, inside))
        address = pixel.to(tl.int64)[:, None] * OUT_ROW + word[None, :]
        tl.store(result + address, packed, mask=valid[:, None] & (word < last)[None, :])
    else:
        if KIND == "signs":
            sums = tl.where(compare(sums, threshold, flip, channel, inside), 1, -1).to(tl.int8)
        moved = channel % (OUT_CHANNELS // SHUFFLE) * SHUFFLE + channel // (OUT_CHANNELS // SHUFFLE)
        if NHWC:
            address = pixel.to(tl.int64)[:, None] * OUT_CHANNELS + moved[None, :]
        else:
            address = (image * OUT_CHANNELS * (OH * OW) + place)[:, None] + (moved * (OH * OW))[None, :]
        tl.store(result + address, sums, mask=valid[:, None] & inside[None, :])


def _checked_output(words: Tensor, geometry: ConvGeometry, shuffle: int) -> tuple[int, int, int]:
    """Batch, height and width of the output; ValueError where there is none."""
    g, (batch, height, width) = geometry, words.shape[:3]
    if g.channels % g.groups or g.out_channels % g.groups:
        raise ValueError(
            f"channels ({g.channels}) and out_channels ({g.out_channels}) must be multiples of groups ({g.groups})"
        )
    if shuffle < 0 or g.out_channels % max(shuffle, 1):
        raise ValueError(f"shuffle is {shuffle}; it must divide the {g.out_channels} output channels")
    sizes = {"batch": batch, "height": height, "width": width}
    sizes |= dict(zip(("output height", "output width"), g.output_size(height, width), strict=True))
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")
    return batch, *g.output_size(height, width)


def _empty_result(
    kind: str, layout: Layout, channels: int, sizes: tuple[int, int, int], device: torch.device, floats: torch.dtype
) -> Tensor:
    batch, height, width = sizes
    if kind == "bits":
        # The last half of a word that no filter is for is written by nobody.
        make = torch.zeros if channels % packing.WORD_BITS in range(1, WORD_BITS + 1) else torch.empty
        return make((batch, height, width, packing.words_for(channels)), dtype=torch.int64, device=device)
    dtype = {"float32": floats, "int32": torch.int32, "signs": torch.int8}[kind]
    order = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    return torch.empty((batch, channels, height, width), dtype=dtype, device=device, memory_format=order)


def _constants(g: ConvGeometry, words: Tensor, out: tuple[int, int, int]) -> dict[str, int]:
    """The geometry as the kernel's constants."""
    (kh, kw), (sh, sw), (dh, dw), (top, left, *_) = g.kernel, g.stride, g.dilation, g.padding
    return {
        **{"CHANNELS": g.channels, "OUT_CHANNELS": g.out_channels, "GROUPS": g.groups},
        **{"H": words.shape[1], "W": words.shape[2], "OH": out[1], "OW": out[2], "KH": kh, "KW": kw},
        **{"SH": sh, "SW": sw, "TOP": top, "LEFT": left, "DH": dh, "DW": dw},
        **{"ROW": row_words(g.channels), "OUT_ROW": row_words(g.out_channels), "FILTER": filter_words(g)},
    }


def conv2d(
    words: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue = PLAIN,
    layout: Layout = "nchw",
    floats: torch.dtype = torch.float32,
) -> Tensor:
    """The first call of a shape on a device tries the tiles. ``floats``: round the float32 result to another type."""
    check_epilogue(epilogue, layout)
    g, e, device = geometry, epilogue, device_of("words", words)
    checked("words", words, torch.int64, (*words.shape[:3], packing.words_for(g.channels)), device)
    checked("weights", weights, torch.int32, (g.out_channels * filter_words(g),), device)
    sizes = _checked_output(words, g, e.shuffle)
    whole = e.shuffle < 2 and (g.groups == 1 or g.out_channels // g.groups % WORD_BITS == 0)
    kind = e.output if e.output != "bits" or whole else "signs"  # signs of channels that do not make whole words
    result = _empty_result(kind, "nhwc" if kind == "signs" else layout, g.out_channels, sizes, device, floats)
    _launch(words, weights, result, g, e, kind, sizes, layout)
    return pack(result) if kind == "signs" else result


def conv2d_float(
    x: Tensor,
    weights: Tensor,
    geometry: ConvGeometry,
    epilogue: Epilogue = PLAIN,
    layout: Layout = "nchw",
    binarize: Binarize = AT_ZERO,
) -> Tensor:
    """``x`` may be bfloat16 or float16 too; a float output is of its type, rounded once, at the end.

    Two kernels: a convolution reads a pixel once a tap and a block of filters, and bits are 32 times less to read.
    """
    if x.dim() == 4 and x.shape[1] != geometry.channels:
        raise ValueError(f"x has {x.shape[1]} channels; the convolution takes {geometry.channels}")
    return conv2d(pack(x, binarize), weights, geometry, epilogue, layout, x.dtype)


def _launch(
    words: Tensor, weights: Tensor, result: Tensor, g: ConvGeometry, e: Epilogue, kind: str,
    sizes: tuple[int, int, int], layout: Layout,
) -> None:  # fmt: skip
    """Run the kernel on tensors that were checked, but for the epilogue's."""
    device, channels = words.device, (g.out_channels,)
    batch, height, width = sizes
    pixels = batch * height * width
    check_indices("words", words.numel() * 2)
    names = ("scale", "bias", "input_scale", "threshold")
    shapes = (channels, channels, (batch, g.groups, height, width), channels)
    values = [checked(n, getattr(e, n), torch.float32, shape, device) for n, shape in zip(names, shapes, strict=True)]
    constants = _constants(g, words, sizes)

    def grid(meta):
        per_group = row_words(g.out_channels) * 32 if kind == "bits" and g.groups == 1 else g.out_channels // g.groups
        return (g.groups * triton.cdiv(per_group, meta["BLOCK_O"]) * triton.cdiv(pixels, meta["BLOCK_P"]),)

    with _launching, on(device):
        conv_kernel[grid](
            words.view(torch.int32), weights, result.view(torch.int32) if kind == "bits" else result,
            *values, checked_flip(e.flip, g.out_channels, device), pixels, pixels.bit_length(), **constants,
            KIND=kind, NHWC=kind == "signs" or layout == "nhwc", RELU=bool(e.relu), SHUFFLE=max(e.shuffle, 1),
            enable_fp_fusion=False,
        )  # fmt: skip
