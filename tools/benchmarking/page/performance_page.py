"""READMEs/performance.md: results by processor as tables, each with machine, versions, date and command."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from .. import machine
from ..known_sides import TITLES as SIDE_TITLES
from ..measure import Row
from ..result import KINDS, Result, read_result
from ..sides import cuda_sides
from . import performance_tables as tables

READMES = Path(__file__).resolve().parents[3] / "READMEs"
FOLDER = READMES / "performance"

HEADER = """# Performance

Written by `python tools/benchmark.py --report` from the figures in `READMEs/performance/`, a directory for each
processor. `make benchmark` measures those of the machine at hand and leaves the others as they are.

Float in and float out on every side, NCHW, the numbers of each compared with a float convolution's first. Sides take
turns in one run. Times are medians of microseconds a call; *ratio* is how many times as long as ours (the median over
the turns); GMAC/s is ours, padding counted. A case is *input channels - output channels - filter - image*. Pictures
show speed-ups: higher is better.
"""

TITLES = {
    "shapes": "Convolutions",
    "networks": "Whole networks",
    "schemes": "Every scheme",
    "kernels": "Each instruction set forced",
    "channels": "Speed-up over channels",
    "kernel": "Speed-up over filter sizes",
    "training": "Training steps",
    "cuda": "On a CUDA device",
}

NOTES = {
    "cuda": f"Channels-last, {cuda_sides.CALLS} calls in a CUDA graph, timed by the device's events.\n",
    "training": "Forward, loss, backward and SGD with momentum, channels-last, both networks with the same layout; "
    "*ratio* is binary over float.\n",
    "schemes": "A layer alone: converted and run in PyTorch, exported and run in onnxruntime with our library, and in "
    "float. `dorefa` has weights of `w_bits` and inputs of `a_bits`; those of `bwn`, `binaryconnect` and `ternary` are "
    "floats.\n",
    "kernels": "*ratio* of a limit is the share of it that ours reaches: the time that xor, popcount and add of as "
    "many bits take this machine in registers, with that instruction set, over ours. Look-ups of nibbles, which count "
    "in another way, can exceed that of theirs.\n",
    "channels": "The dashed line is the paper's 64 c N_W / (c N_W + 64), with c channels and N_W filter positions. ",
    "kernel": "The dashed line is the paper's 64 c N_W / (c N_W + 64), with c channels and N_W filter positions. ",
}
TRAINING_MEMORY_NOTE = (
    "The peak of a training step, on one thread: how much the resident memory of a process has grown since before the "
    "network was made.\n"
)
MEMORY_NOTE = (
    "Stored: all parameters, 1 bit a binary weight. Peak: how much the resident memory of a process grows when it "
    "loads the network and runs it once, one thread.\n"
)
WHY = (
    "It counts a word of 64 products against 64 scalar multiplications, one a cycle each; in fact a float convolution "
    "does 16 or more multiply-adds an instruction, 64 bits take a third of an instruction each for xor, popcount and "
    "add, eight words at a time, and packing the input and writing the output, which it counts as one operation a "
    "pixel, weigh the more the fewer channels there are.\n"
)


def machine_line(result: Result) -> str:
    """Where, when and how."""
    e = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items())
    where = f"{e['cpu']}, {e['cores']} cores ({', '.join(e['flags'])})"
    where = f"{e['gpu']}; {where}" if "gpu" in e else where
    return f"{where}; {versions}; {e['date'][:10]}, load {e['load']} before the start: `{e['command']}`\n"


def group_tables(group: str, rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and lines of each table of a group, scaling last."""
    found = []
    for setting in tables.settings(rows):
        chosen = tables.with_setting(rows, setting)
        found.append(
            (", ".join(filter(None, (group, tables.setting_title(setting)))), *tables.pivot(chosen, SIDE_TITLES))
        )
    batch = max(row.batch for row in rows)
    header, lines = tables.scaling(rows, batch)
    if lines:
        most = max(row.threads for row in rows)
        found.append((f"times as fast on {most} threads as on one, batch {batch}", header, lines))
    return found


def kept_path(result: Result) -> Path:
    """Where a result is kept, from the directory of the guides: that of its processor."""
    return Path(FOLDER.name, machine.processor_folder(result.environment), f"{result.kind}.json")


def section(result: Result) -> list[str]:
    """The Markdown of one result."""
    picture = kept_path(result).with_suffix(".png").as_posix()
    parts = [f"### {TITLES[result.kind]}\n", NOTES.get(result.kind, "") + WHY * (result.kind in ("channels", "kernel"))]
    parts += [machine_line(result), f"![{TITLES[result.kind]}]({picture})\n"]
    for group, rows in result.groups.items():
        for title, header, lines in group_tables(group, rows):
            parts += [f"#### {title[0].upper()}{title[1:]}\n", tables.markdown(header, lines)]
    if result.memory:
        note = TRAINING_MEMORY_NOTE if result.kind == "training" else MEMORY_NOTE
        parts += [f"#### Memory\n\n{note}", tables.markdown(*memory_table(result))]
    return [part for part in [*parts, *(f"* {line}\n" for line in absent(result))] if part]


def memory_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and lines."""
    table = tables.training_memory if result.kind == "training" else tables.memory
    return table(result.memory)


def absent(result: Result) -> list[str]:
    """What did not run, and why."""
    groups = [f"{name}: {reason}" for name, reason in result.missing.items()]
    return groups + tables.skipped(row for rows in result.groups.values() for row in rows)


def not_run() -> list[str]:
    """The section of a CUDA device where none was at hand."""
    parts = [f"## {TITLES['cuda']}\n", NOTES["cuda"], "Not run yet: `python tools/benchmark.py --cuda` measures it.\n"]
    for group, (cases, sides) in cuda_sides.GROUPS.items():
        header = ["case", *(f"{side.title} us" for side in sides)]
        lines = [[case.name, *["not run"] * len(sides)] for case in cases]
        parts += [f"### {group[0].upper()}{group[1:]}, batch {cuda_sides.BATCH}\n", tables.markdown(header, lines)]
    return parts


def page(results: Iterable[Result]) -> str:
    """The whole page: processor by processor, each with the kinds of figures in one order."""
    results = sorted(results, key=lambda result: (machine.processor(result.environment), KINDS.index(result.kind)))
    parts = []
    for processor, group in itertools.groupby(results, key=lambda result: machine.processor(result.environment)):
        parts += [f"## {processor}\n", *(part for result in group for part in section(result))]
    return "\n".join([HEADER, *parts, *([] if any(result.kind == "cuda" for result in results) else not_run())])


def write_report(paths: Iterable[Path], folder: Path = READMES) -> Path:
    """Write ``folder``/performance.md and its pictures; its path.

    Of two files of one processor and kind the later one counts. Raises ValueError without any.
    """
    results = {kept_path(result): result for result in map(read_result, paths)}
    if not results:
        raise ValueError("there are no results to report; measure some first with --keep")
    from .performance_plots import plot  # here: measuring needs no matplotlib

    for kept, result in results.items():
        plot(result, folder / kept.with_suffix(".png"))
    path = folder / "performance.md"
    path.write_text(page(results.values()))
    return path
