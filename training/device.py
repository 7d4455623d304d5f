"""Which device a run uses, and what makes it repeatable."""

import os

import torch

CPU = ("", "cpu", "none", "-1")  # of --gpu


def select_device(gpu: str | None) -> torch.device:
    """None: CUDA or MPS where present; one of ``CPU``; "mps"; else the index of a CUDA device.

    Raises ValueError for a device that is not there.
    """
    if gpu in CPU:
        return torch.device("cpu")
    if gpu is None:
        accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
        return torch.accelerator.current_accelerator() if accelerator else torch.device("cpu")
    if gpu == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    present = [str(i) for i in range(torch.cuda.device_count())]
    if gpu not in present:
        others = f"{', '.join(present)}, or " if present else ""
        raise ValueError(f"there is no GPU {gpu!r}; valid: {others}--gpu cpu for the CPU")
    return torch.device("cuda", int(gpu))


def set_deterministic(deterministic: bool) -> None:
    """On a GPU: exact repetition, or else the fastest convolution by trial. A CPU repeats exactly anyway."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
