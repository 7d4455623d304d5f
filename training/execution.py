"""How a training batch goes through the model: precision, memory format, compilation, several processes."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import RunStopped
from .processes.distributed import process_count

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}  # of --amp


class Execution:
    """The forward pass of training, over the parameters of ``model``.

    Args:
        config: amp, channels_last, compile.
        some_unused: not every parameter takes part in the loss, as in a stage with float weights.
    """

    def __init__(self, config, model: nn.Module, device: torch.device, some_unused: bool = False):
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
