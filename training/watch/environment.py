"""Where and with what a run was made: so that a number can be traced to a machine and versions."""

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import quantize

PACKAGES = ("torchvision", "timm", "onnxruntime", "numpy")


def describe(device: torch.device) -> dict[str, Any]:
    """Plain values for a log: command, date, machine, versions."""
    return {
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "versions": {
            "python": platform.python_version(),
            "xnorkit": quantize.__version__,
            "torch": str(torch.__version__),  # with its build, such as +cpu
            **installed(PACKAGES),
        },
    }


def cpu_name() -> str:
    """The processor's name as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of ``packages`` that there are."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
