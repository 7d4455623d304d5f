"""Each instruction set forced, in a process of its own with what it is compared with."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantize import kernels

from .known_sides import OURS, OURS_ON_BITS
from .measure import Row
from .result import Result, read_result

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

# Kernel -> what else holds its peers to the same instruction set, the peers, and the limit of its instruction set.
FORCED = {
    "scalar": ({}, ("torch_float",), None),
    "avx2": (AVX2, ("torch_float",), "limit_avx2"),
    "avx512bw": ({}, ("torch_float",), "limit_avx512bw"),
    "avx512": ({}, ("limit", "torch_float"), "limit"),
    "amx": ({}, ("limit", "ort_int8"), "limit"),
    "neon": ({}, ("torch_float",), None),
}


def measure_forced(result: Result, shapes: Sequence[str]) -> None:
    """Fills in two groups of ``result`` for each kernel, floats in and out, and bits against the limit of its
    instruction set, or says that this machine cannot run it.
    """
    for kernel, (variables, peers, limit) in FORCED.items():
        if kernel not in kernels.available_kernels():
            result.missing[kernel] = "not available here"
            continue
        environment = {**os.environ, **variables, "XNORKIT_KERNEL": kernel}
        result.groups[kernel] = _rows_of([OURS, *peers], shapes, result.rounds, environment)
        if limit:
            group = f"{kernel}, bits in and int32 out"
            result.groups[group] = _rows_of([OURS_ON_BITS, limit], shapes, result.rounds, environment)


def _rows_of(sides: Sequence[str], shapes: Sequence[str], rounds: int, environment: Mapping[str, str]) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, str(SCRIPT), "--side", *sides, "--shape", *shapes]
        command += ["--batch", "1", "--threads", "1", "--rounds", str(rounds), "--json", str(path)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return next(iter(read_result(path).groups.values()))
