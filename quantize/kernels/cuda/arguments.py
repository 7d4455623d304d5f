"""What the kernels are given is checked here: they read memory that nobody checks after them."""

import contextlib

import torch
import triton
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # of an input; the output has the same


def device_of(name: str, tensor: Tensor) -> torch.device:
    """The device that computes on ``tensor``; ValueError where the kernels cannot."""
    if tensor.device.type != "cuda" and not INTERPRETED:
        raise ValueError(
            f"{name} is on {tensor.device}; the Triton kernels take CUDA tensors, or CPU tensors through Triton's "
            "interpreter, with TRITON_INTERPRET=1 set before Triton is imported"
        )
    return tensor.device


def checked(
    name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """``tensor``, once it is what a kernel will take it for; ValueError otherwise. None is none."""
    if tensor is None:
        return None
    if tensor.dtype != dtype:
        problem = f"is {bare(tensor.dtype)}; it must be {bare(dtype)}"
    elif tensor.device != device:
        problem = f"is on {tensor.device}; the input is on {device}"
    elif tensor.shape != shape:
        problem = f"has shape {tuple(tensor.shape)}; it must be {tuple(shape)}"
    elif not tensor.is_contiguous():
        problem = "is not contiguous; call .contiguous() first"
    else:
        return tensor
    raise ValueError(f"{name} {problem}")


def checked_flip(tensor: Tensor | None, channels: int, device: torch.device) -> Tensor | None:
    """A flip as bytes."""
    flip = checked("flip", tensor, torch.bool, (channels,), device)
    return None if flip is None else flip.view(torch.uint8)


def bare(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_indices(name: str, count: int) -> None:
    """ValueError where 32-bit indices do not reach all words of a tensor."""
    if count >= 2**31:
        raise ValueError(f"{name} has {count} words of 32 bits; the kernels take less than 2^31: split the batch")


def on(device: torch.device):
    """A context in which Triton launches on ``device``."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
