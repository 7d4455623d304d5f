"""Where figures come from: machine, versions, date, command."""

import datetime
import functools
import os
import platform
import shlex
from pathlib import Path
from typing import Any

import torch

import quantize
from quantize import kernels
from training.watch.environment import cpu_name, installed

PACKAGES = ("onnxruntime", "openvino", "numpy")
# Of a processor's flags, what the sides choose their code by.
FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq", "avx512_bf16", "gfni",
    "amx_tile", "amx_int8", "asimd", "asimddp",
)  # fmt: skip
QUIET_LOAD = 0.3  # processes that want a core, beside this one


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Of the processor, as Linux names them; none elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith(("flags", "Features"))), []))


def load_warning(load: float) -> str | None:
    """What to say where other processes disturb the times; ``load`` is the average of the last minute."""
    if load <= QUIET_LOAD:
        return None
    return f"warning: the load of this machine is {load:.2f} before the start: other processes disturb the times"


def describe(argv: list[str]) -> dict[str, Any]:
    """Plain values for JSON."""
    versions = {"python": platform.python_version(), "xnorkit": quantize.__version__, "torch": str(torch.__version__)}
    return {
        "command": shlex.join(["python", "tools/benchmark.py", *argv]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "kernels": kernels.available_kernels(),
        "system": platform.platform(terse=True),
        "load": round(os.getloadavg()[0], 2),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "versions": versions | installed(PACKAGES),
    }


# What forces an instruction set, of the sides that know one.
VARIABLES = ("XNORKIT_KERNEL", "ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")
