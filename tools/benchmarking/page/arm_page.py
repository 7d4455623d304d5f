"""READMEs/performance/arm.md: simulated cycles of the NEON kernel, beside what others have published."""

from collections.abc import Iterable, Mapping

from ..arm_cycles import WAYS, Core, Estimate
from .performance_tables import markdown

# Multiply-adds of Bi-Real Net 18's binary layers at 224 x 224: four 3x3 convolutions of 64 channels at 56 x 56, and in
# each of the three stages after that three of as many, and one of half as many, whose input has half the channels.
CONVOLUTION = 56 * 56 * 64 * 64 * 9
BIREAL_MACS = 4 * CONVOLUTION + 3 * (3 * CONVOLUTION + CONVOLUTION // 2)

# daBNN's README, on a Pixel 1, one thread, 6 May 2019: channels and side of a 3x3 convolution -> ns of the processor.
DABNN_LAYERS = {(64, 56): 1_281_553, (128, 28): 954_754, (256, 14): 969_810, (512, 7): 1_253_921}

INTRODUCTION = """# The NEON kernel, simulated

Written by `python tools/arm_cycles.py --markdown READMEs/performance/arm.md`;
{date}, {versions}.

**Nothing here was measured.** llvm-mca ran the kernel's inner loop (`quantize/csrc/arch/neon.cc`, as the compiler made
it) on LLVM's scheduling model of each core, with all data in the nearest cache. Packing, borders, the widening of
counts, epilogues, caches and memory are left out: a device is slower than this. LLVM has no model of some of these
cores and lends them that of a relative, which *model* names: a Cortex-A76 has twice the loads and a wider front end
than a Cortex-A57, an M1 four vector pipes where Cyclone has three.

## The inner loop, simulated

MACs are the bits that an iteration counts, 128 a vector, in 16 vectors: two pixels by 16 filters. *Limit* is what the
same model's pipes allow for xor, count and add alone, in registers, without loads, broadcasts and the loop: MACs of
many copies of the three over llvm-mca's `Block RThroughput`, the work of their busiest pipe. *udot* is the kernel as it
is where the compiler may use the dot product (`__ARM_FEATURE_DOTPROD`, as by default for Apple's processors): its
counts need no widening. GMAC/s are at the clock of the device named. The last column is the time that all binary
multiply-adds of Bi-Real Net 18 ({macs:.2f} G) take at that rate: less than such a network takes.
"""

LIMITS = """## Ways to count, simulated

The limits of other ways, in MACs a cycle, on the same models; a dash where the core lacks an instruction. *eor3* (SHA3)
xors three words: with words chained for full adders, two of them take five instructions instead of six. Without it
adders gain nothing, since counting is one instruction. Look-ups of nibbles, as AVX2 and WebAssembly count, take the
fewest instructions, seven for three vectors instead of nine, but more loads; and a `tbl` of 128 bits is three
operations of a Cortex-A57, where they lose. The kernel has the three instructions that are one operation everywhere;
the others would need a choice by core at run time.
"""

PUBLISHED = """## What others have published

Measured on a device, whole networks and whole layers; not comparable with a loop, but what it has to beat.

| Bi-Real Net 18, Pixel 1, one thread | ms | source |
| --- | --: | --- |
| larq compute-engine | 41.6 | [Larq Zoo](https://docs.larq.dev/zoo/), whose releases list 41.7 and 43.4 too |
| daBNN | 61.3 | [README](https://github.com/JDAI-CV/dabnn), May 2019 |

daBNN's convolutions of 3x3, from the same page; its processor time, and the rate that it amounts to:
"""


def loop_table(estimates: Iterable[Estimate]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: the kernel on each core."""
    header = [
        "core",
        "counting",
        "model",
        "cycles",
        "MACs",
        "MACs/cycle",
        "limit",
        "share",
        "GHz",
        "GMAC/s",
        "Bi-Real ms",
    ]
    lines = []
    for e in estimates:
        figures = [f"{e.cycles:.1f}", str(e.products), f"{e.rate:.1f}", f"{e.limit:.1f}", f"{e.share:.0%}"]
        figures += [f"{e.core.clock}, {e.core.device}", f"{e.gmacs:.0f}", f"{BIREAL_MACS / e.gmacs / 1e6:.1f}"]
        lines.append([e.core.name, e.way, e.model, *figures])
    return header, lines


def limit_table(limits: Mapping[Core, Mapping[str, float | None]]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: MACs a cycle of each way, by core."""
    lines = [
        [core.name, *("-" if (x := ways[way]) is None else f"{x:.1f}" for way in WAYS)] for core, ways in limits.items()
    ]
    return ["core", *WAYS], lines


def dabnn_table() -> tuple[list[str], list[list[str]]]:
    """Header and lines: each layer's time and rate."""
    lines = []
    for (channels, side), ns in DABNN_LAYERS.items():
        rate = side * side * channels * channels * 9 / ns
        lines.append([f"{channels}-{channels}-3x3-{side}x{side}", f"{ns / 1000:,.0f}", f"{rate:.0f}"])
    return ["case", "us", "GMAC/s"], lines


def page(
    estimates: Iterable[Estimate], limits: Mapping[Core, Mapping[str, float | None]], versions: str, date: str
) -> str:
    """The whole page."""
    introduction = INTRODUCTION.format(date=date, versions=versions, macs=BIREAL_MACS / 1e9)
    parts = [introduction, markdown(*loop_table(estimates)), LIMITS, markdown(*limit_table(limits))]
    return "\n".join([*parts, PUBLISHED, markdown(*dabnn_table())])
