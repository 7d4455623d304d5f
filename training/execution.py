"""Which device a run uses, and how a training batch goes through the model: precision, compilation, processes."""

import contextlib
import os

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .config import TrainConfig
from .errors import RunStopped
from .processes.distributed import CPU, process_count

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}  # of --amp


class Execution:
    """The forward pass of training, over the parameters of ``model``.

    Args:
        config: amp, channels_last, compile.
        some_unused: not every parameter takes part in the loss, as in a stage with float weights.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, device: torch.device, some_unused: bool = False):
        self.device = device
        self.precision = PRECISIONS.get(config.amp)
        self.memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.parallel = None
        if process_count() > 1:
            devices = [torch.cuda.current_device()] if device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=devices, find_unused_parameters=some_unused)
            self.parallel = model
        self.model = torch.compile(model) if config.compile else model

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) -> outputs (N, classes), of which the loss is not computed in ``--amp``.

        Raises RunStopped where batch norm has a single value a channel, which has no variance.
        """
        try:
            with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                outputs = self.model(images.contiguous(memory_format=self.memory_format))
        except ValueError as error:
            if len(images) > 1:
                raise
            raise RunStopped(
                f"batches of one image are too small for this network ({error}); raise --batch-size, or, where the "
                "training images are too few, lower --accumulate"
            ) from error
        return outputs if self.precision is None else outputs.float()

    def collecting(self, last: bool) -> contextlib.AbstractContextManager:
        """Where a forward and a backward pass belong; in the ``last`` of a step the processes share their gradients."""
        return contextlib.nullcontext() if last or self.parallel is None else self.parallel.no_sync()


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
