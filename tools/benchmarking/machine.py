"""Where figures come from: machine, versions, date, command."""

import datetime
import functools
import os
import platform
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import quantize
from quantize import kernels
from training.installed import as_called
from training.watch.environment import cpu_name, installed

PACKAGES = ("onnxruntime", "openvino", "numpy")
# Of a processor's flags, what the sides choose their code by.
FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq", "avx512_bf16", "gfni",
    "amx_tile", "amx_int8", "asimd", "asimddp",
)  # fmt: skip
# From the widest on; a processor's figures are kept under its name and the first of these that it has. Clouds call
# generations alike, which AVX-VNNI tells apart: an EPYC with it is of Zen 5, whose vectors of 512 bits are whole.
INSTRUCTION_SETS = {
    ("amx_int8",): "AMX",
    ("avx512f", "avx_vnni"): "AVX-512 and AVX-VNNI",
    ("avx512f",): "AVX-512",
    ("avx2",): "AVX2",
    ("asimd",): "NEON",
}
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


def processor(environment: Mapping[str, Any]) -> str:
    """What computed, for people: "AMD EPYC, AVX-512", or the name of a GPU."""
    flags = set(environment["flags"])
    widest = next((name for needed, name in INSTRUCTION_SETS.items() if flags.issuperset(needed)), None)
    cpu = re.sub(r"\((R|TM)\)", "", environment["cpu"])
    return environment.get("gpu") or ", ".join(filter(None, (cpu, widest)))


def processor_folder(environment: Mapping[str, Any]) -> str:
    """The same as the name of a directory: "amd-epyc-avx-512"."""
    return re.sub(r"[^a-z0-9]+", "-", processor(environment).lower()).strip("-")


def describe(argv: list[str]) -> dict[str, Any]:
    """Plain values for JSON."""
    versions = {"python": platform.python_version(), "xnorkit": quantize.__version__, "torch": str(torch.__version__)}
    return {
        "command": as_called(shlex.join(["python", "tools/benchmark.py", *argv])),
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
