"""The most memory that this process has held."""

import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Bytes: "host", resident memory; "device", in tensors on a CUDA device; None where the system does not tell."""
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
