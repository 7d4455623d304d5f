"""Which device a run uses, and what makes it repeatable."""

import os

import torch


def select_device(gpu: str | None) -> torch.device:
    """None: CUDA or MPS where present; "": the CPU; "mps"; else the index of a CUDA device.

    Raises ValueError for a device that is not there.
    """
    if gpu == "":
        return torch.device("cpu")
    if gpu is None:
        accelerator = torch.cuda.is_available() or torch.backends.mps.is_available()
        return torch.accelerator.current_accelerator() if accelerator else torch.device("cpu")
    if gpu == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    present = [str(i) for i in range(torch.cuda.device_count())]
    if gpu not in present:
        raise ValueError(f'there is no GPU {gpu!r}; valid: {", ".join(present) or "none"}, or --gpu "" for the CPU')
    return torch.device("cuda", int(gpu))


def set_deterministic(deterministic: bool) -> None:
    """On a GPU: exact repetition, or else the fastest convolution by trial. A CPU repeats exactly anyway."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
