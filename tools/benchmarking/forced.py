"""Each instruction set forced, in a process of its own with what it is compared with."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quantize import kernels

from .known_sides import OURS
from .result import Result, read_result

SCRIPT = Path(__file__).parents[1] / "benchmark.py"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

# Kernel -> what else holds its peers to the same instruction set, and the peers.
FORCED = {
    "scalar": ({}, ("torch_float",)),
    "avx2": (AVX2, ("torch_float",)),
    "avx512": ({}, ("limit", "torch_float")),
    "amx": ({}, ("limit", "ort_int8")),
    "neon": ({}, ("torch_float",)),
}


def measure_forced(result: Result, shapes: Sequence[str]) -> None:
    """Fills in a group of ``result`` for each kernel, or says that this machine cannot run it."""
    for kernel, (variables, peers) in FORCED.items():
        if kernel not in kernels.available_kernels():
            result.missing[kernel] = "not available here"
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            command = [sys.executable, str(SCRIPT), "--side", OURS, *peers, "--shape", *shapes]
            command += ["--batch", "1", "--threads", "1", "--rounds", str(result.rounds), "--json", str(path)]
            environment = {**os.environ, **variables, "XNORKIT_KERNEL": kernel}
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            result.groups[kernel] = next(iter(read_result(path).groups.values()))
