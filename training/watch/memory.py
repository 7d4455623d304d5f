"""The memory of this process: the most that it has held, and whether it keeps what is freed."""

import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def peak_memory(device: "torch.device") -> dict[str, int | None]:
    """Bytes: "host", resident memory; "device", in tensors on a CUDA device; None where the system does not tell."""
    import torch  # only here: the command line is read before torch is loaded

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
