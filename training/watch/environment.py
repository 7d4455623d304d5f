"""Where and with what a run is made, so that a number can be traced to a machine and versions, and in which memory.

Importing it does not import torch: a program asks for its memory to be kept before torch takes any.
"""

import ctypes
import datetime
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("torchvision", "timm", "onnxruntime", "numpy")
STATUS = Path("/proc/self/status")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def describe(device: "torch.device") -> dict[str, Any]:
    """Plain values for a log: command, date, machine, versions."""
    import torch

    import quantize

    return {
        "command": command(),
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


def command() -> str:
    """How this program was called: a script of Python's, or a console script."""
    name = Path(sys.argv[0]).name
    return shlex.join([*(["python"] if name.endswith(".py") else []), name, *sys.argv[1:]])


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


def peak_memory(device: "torch.device") -> dict[str, int | None]:
    """Bytes: "host", resident memory; "device", in tensors on a CUDA device; None where the system does not tell."""
    import torch

    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"host": peak_resident_memory(), "device": on_device}


def peak_resident_memory() -> int | None:
    """Bytes, with libraries and data."""
    # Not getrusage where there is another way: on Linux its peak begins at that of the process that started this one.
    status = STATUS.read_text().splitlines() if STATUS.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")]
    if peaks:
        return peaks[0]
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> bool:
    """Let the C library keep memory that is freed, for the next tensor; whether it does so.

    By default glibc asks the system for each large tensor anew and gives it back when it is freed; the system
    then clears the pages one by one, at the first write to each. That is a third of a training step of ResNet-18
    on a CPU. Nothing is changed where MALLOC_ variables are set or another allocator is loaded.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
