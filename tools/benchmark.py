"""Our kernels against what else there is: onnxruntime in float and int8, torch, OpenVINO's binary convolution.

    python tools/benchmark.py                              shapes of real layers: batch 1 and 32, one and all threads
    python tools/benchmark.py --shape 256-256-3x3-14x14 --batch 1 --threads 1
    python tools/benchmark.py --network nin_xnornet --network resnet18_bireal    whole networks, and their memory
    python tools/benchmark.py --training nin_xnornet --training resnet18_xnornet    a training step against float's
    python tools/benchmark.py --cuda                       bits on a CUDA device against cuDNN's bf16, batch 256
    python tools/benchmark.py --network nin_xnornet --profile    and every node's share of the time in onnxruntime
    python tools/benchmark.py --schemes                    layers of every scheme, in PyTorch and in onnxruntime
    python tools/benchmark.py --kernels                    each instruction set forced, against the machine's limit
    python tools/benchmark.py --sweep channels             the paper's figure 4 b (kernel: c)
    python tools/benchmark.py --json FILE --plot FILE      write the figures to a file, draw them
    python tools/benchmark.py --keep                       keep them in READMEs/performance/, by processor
    python tools/benchmark.py --report [FILE ...]          write READMEs/performance.md from all that are kept

Float in and float out. Every side's numbers are compared with a float convolution's before its time is
taken. Sides take turns in one run; a time is the median of its calls; a ratio is how many times as long as
ours, the median over the turns. A side whose package is missing (pip install 'xnorkit[bench]') is left out.
Exit codes: 0 done, 1 a side computes wrong numbers, 2 something that cannot be used.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantize.words import did_you_mean, format_table
from tools.benchmarking import machine
from tools.benchmarking.cases import SHAPES, SWEEPS
from tools.benchmarking.forced import measure_forced
from tools.benchmarking.known_sides import CONV_SIDES, NETWORK_SIDES, OURS, PEERS, TITLES
from tools.benchmarking.measure import measure
from tools.benchmarking.page.performance_page import (
    FOLDER,
    READMES,
    absent,
    group_tables,
    kept_path,
    memory_table,
    write_report,
)
from tools.benchmarking.page.performance_tables import setting_title
from tools.benchmarking.profile import HEADER, PROFILED, lines_of, profile
from tools.benchmarking.result import Result
from tools.benchmarking.side import Side, WrongNumbers
from tools.benchmarking.sides import cuda_sides, layer_cases
from tools.benchmarking.sides.network_sides import NetworkCase
from tools.benchmarking.sides.resident_memory import measure_memory
from tools.benchmarking.sides.training_steps import TRAINING_SIDES, TrainingCase, measure_training_memory
from tools.benchmarking.timing import Timer
from tools.command_line import exit_code, fail, positive, tool_parser
from training.watch.console import progress


def parser() -> argparse.ArgumentParser:
    p = tool_parser(__doc__)
    what = p.add_mutually_exclusive_group()
    what.add_argument("--network", action="append", default=[], metavar="NAME", help="of models/, in a binary layout")
    what.add_argument("--training", action="append", default=[], metavar="NAME", help="as --network: training steps")
    what.add_argument("--cuda", action="store_true", help="two convolutions and resnet18_bireal on a CUDA device")
    what.add_argument("--sweep", choices=SWEEPS, help="over channels or filter sizes")
    what.add_argument("--schemes", action="store_true", help="layers of every scheme; one thread, batch 1")
    what.add_argument("--kernels", action="store_true", help="each instruction set forced; one thread, batch 1")
    what.add_argument("--report", nargs="*", type=Path, metavar="FILE", help=f"only write the page, of {FOLDER.name}/")
    p.add_argument("--shape", nargs="+", default=[], metavar="NAME", help=f"default: all; {', '.join(SHAPES)}")
    p.add_argument("--side", nargs="+", metavar="NAME", help=f"what to compare, ours first: {', '.join(CONV_SIDES)}")
    p.add_argument("--batch", nargs="+", type=positive, metavar="N", help="default: 1 32; of sweeps and schemes 1")
    p.add_argument(
        "--threads", nargs="+", type=positive, metavar="N", help="default: 1 and all; of sweeps and schemes 1"
    )
    p.add_argument("--rounds", type=positive, default=15, metavar="N", help="turns of each side; default: %(default)s")
    p.add_argument("--profile", action="store_true", help="of a --network: the time of each node in onnxruntime")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    p.add_argument("--keep", action="store_true", help=f"write them to {FOLDER.name}/, for this processor")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw them there")
    return p


def chosen(names: Sequence[str], known: dict, what: str) -> list:
    """The values of ``names``; ValueError with close names for an unknown one."""
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}: {did_you_mean(name, known)}")
    return [known[name] for name in names]


@dataclasses.dataclass(frozen=True)
class Job:
    """What to measure; ``memory(case, batch)`` may tell nothing, None."""

    kind: str
    cases: Sequence[Any]
    sides: Sequence[Side]
    batches: Sequence[int]
    memory: Callable[[Any, int], dict | None] = lambda case, batch: None


def job_of(flags: argparse.Namespace) -> Job:
    """What the flags ask for."""

    def sides(known: dict[str, Side], names: Sequence[str]) -> list[Side]:
        return chosen(flags.side or names, known, "side")

    if flags.network:
        cases = [NetworkCase(name) for name in flags.network]
        return Job("networks", cases, sides(NETWORK_SIDES, list(NETWORK_SIDES)), flags.batch or [1, 32], measure_memory)
    if flags.training:
        cases = [TrainingCase(name, device) for device in ("cpu", "cuda") for name in flags.training]
        names = list(TRAINING_SIDES)
        return Job("training", cases, sides(TRAINING_SIDES, names), flags.batch or [32], measure_training_memory)
    if flags.schemes:
        names = (OURS, "xnorkit_onnx", "ort_float", "torch_float")
        return Job("schemes", layer_cases.CASES, sides(NETWORK_SIDES, names), flags.batch or [1])
    if flags.sweep:
        cases = chosen(flags.shape, SHAPES, "shape") or list(SWEEPS[flags.sweep].values())
        return Job(flags.sweep, cases, sides(CONV_SIDES, (OURS, "ort_float", "torch_float")), flags.batch or [1])
    cases = chosen(flags.shape, SHAPES, "shape") or list(SHAPES.values())
    kind = "kernels" if flags.kernels else "shapes"
    return Job(kind, cases, sides(CONV_SIDES, (OURS, *PEERS)), flags.batch or [1, 32])


def run(flags: argparse.Namespace, argv: Sequence[str]) -> Result:
    """Measure what the flags ask for."""
    if flags.cuda:
        result = Result("cuda", cuda_sides.describe(list(argv)), flags.rounds)
        cuda_sides.measure_cuda(result, flags.batch or [cuda_sides.BATCH])
        return result
    job = job_of(flags)
    result = Result(job.kind, machine.describe(list(argv)), flags.rounds)
    if warning := machine.load_warning(result.environment["load"]):
        print(warning, file=sys.stderr)
    if flags.kernels:
        measure_forced(result, [case.name for case in job.cases])
        return result
    threads = flags.threads or sorted({1} if flags.sweep or flags.schemes else {1, result.environment["cores"]})
    runs = [(case, batch) for batch in job.batches for case in job.cases]
    rows = [measure(c, job.sides, b, threads, Timer(flags.rounds)) for c, b in progress(runs, len(runs), job.kind)]
    result.groups[""] = [row for part in rows for row in part]
    result.memory = [m for case, batch in runs if (m := job.memory(case, batch))]
    return result


def show_profiles(flags: argparse.Namespace, result: Result) -> None:
    """Print the nodes of every network, side, batch and number of threads that ran in onnxruntime."""
    cases = {name: NetworkCase(name) for name in flags.network}
    for row in (row for rows in result.groups.values() for row in rows):
        if row.side in PROFILED and row.skipped is None:
            setting, title = setting_title((row.batch, row.threads)), TITLES[row.side]
            lines = lines_of(profile(cases[row.case], row.side, row.batch, row.threads))
            print(f"\nprofile of {row.case}, {title}, {setting}\n{format_table(HEADER, lines, right=HEADER[2:])}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser().parse_args(argv)
    try:
        return exit_code("benchmark", lambda: benchmark(flags, argv))
    except WrongNumbers as error:
        fail("benchmark", error)
        return 1


def benchmark(flags: argparse.Namespace, argv: Sequence[str]) -> None:
    """Measure, print, and write what the flags ask for. Raises ValueError or OSError, in one sentence; WrongNumbers."""
    if flags.profile and not flags.network:
        raise ValueError("--profile is of whole networks; name one with --network")
    if (flags.keep or flags.report is not None) and not READMES.is_dir():
        raise ValueError("--keep and --report write to the guides of a clone, and there are none; give --json FILE")
    if flags.report is not None:
        print(f"wrote {write_report(flags.report or sorted(FOLDER.rglob('*.json')))}")
        return
    result = run(flags, argv)
    show(result)
    if flags.profile:
        show_profiles(flags, result)
    if flags.json:
        result.write(flags.json)
    if flags.keep:
        result.write(READMES / kept_path(result))
    if flags.plot:
        from tools.benchmarking.page.performance_plots import plot

        plot(result, flags.plot)


def show(result: Result) -> None:
    """Print the tables."""
    for group, rows in result.groups.items():
        for title, header, lines in group_tables(group, rows):
            print(f"\n{title}\n{format_table(header, lines, right=header[1:])}")
    if result.memory:
        header, lines = memory_table(result)
        print(f"\nmemory\n{format_table(header, lines, right=header[1:])}")
    for line in absent(result):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
