"""What a trainer does for binary layers while it trains them, whoever the trainer is."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..binary.layers import BinaryLayer
from ..health import Figures, evaluating
from ..optim import clip_latent_weights, estimate_statistics, set_progress


class Duties:
    """Progress of annealed schemes, clipping, statistics, figures; each is one call, of a callback or a loop.

    A model without binary layers is left as it is.
    """

    def __init__(self, clip: float = 1.0, statistics: Sequence[Any] = (), watch: Any = None):
        """
        Args:
            clip: latent weights stay in [-clip, clip] where their scheme asks for it (``Scheme.clips_weights``); 0 says
                nowhere.
            statistics: batches of the training set for :func:`quantize.estimate_statistics`, where a scheme draws its
                weights in training.
            watch: a batch whose figures are logged after each epoch, see :class:`quantize.health.Figures`.

        A batch is what the model is called with, as for :func:`quantize.prepare`, on any device. Raises ValueError for
        a negative ``clip``.
        """
        if clip < 0:
            raise ValueError(f"clip is {clip}; it must be 0 (no clipping) or more, 1 where surrogate gradients end")
        self._clip, self._statistics, self._watch = clip, statistics, watch

    def begin(self, model: nn.Module) -> None:
        """``model``, on the device on which it trains, is what the other calls are about."""
        self.model = model
        self.layers = [module for module in model.modules() if isinstance(module, BinaryLayer)]
        self.annealed = any(layer.scheme.annealed for layer in self.layers)
        self.random = any(layer.scheme.random_in_training for layer in self.layers)
        self.clipped = [layer for layer in self.layers if layer.scheme.clips_weights]
        self._figures = None if self._watch is None else Figures(model, self._here(self._watch))

    def before_step(self, done: int, steps: float) -> None:
        """``done`` of the ``steps`` optimizer steps of the whole training are done.

        Raises ValueError where a scheme is annealed over ``steps`` that have no end.
        """
        if not self.annealed:
            return
        if not 0 < steps < math.inf:
            raise ValueError(
                f"a scheme is annealed over the training, and the trainer says that it has {steps} steps; give it a "
                "number of steps or epochs"
            )
        set_progress(self.model, min(1.0, done / steps))

    def after_step(self) -> None:
        """Clip the latent weights; a call without a step before changes nothing."""
        if self._clip and self.clipped:
            clip_latent_weights(self.clipped, self._clip)

    def before_evaluation(self) -> None:
        """Batch norm's statistics with the weights that are evaluated and ship; modules stay in their mode."""
        if self.random and self._statistics:
            with evaluating(self.model):
                estimate_statistics(self.model, [self._here(batch) for batch in self._statistics])

    def figures(self) -> dict[str, float]:
        """What a log shows of the layers now; nothing where no batch is watched."""
        return {} if self._figures is None else self._figures()

    def _here(self, batch: Any) -> Any:
        device = next(self.model.parameters()).device
        return tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, batch)


def explained(error: ModuleNotFoundError, package: str, file: str) -> ModuleNotFoundError:
    """What ``file`` raises where ``package``, which it is for, is not installed; another error as it is."""
    if error.name != package:
        return error
    return ModuleNotFoundError(f"{file} needs {package}, which is not installed: pip install {package}", name=package)
