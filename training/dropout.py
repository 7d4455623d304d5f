"""Another share for the dropout layers of a network."""

from torch import nn

import models


def set_dropout(model: nn.Module, share: float) -> None:
    """Let every layer of ``model`` that drops something drop ``share``, 0 to below 1, of its values.

    Raises ValueError for a network that drops nothing.
    """
    kinds = (nn.modules.dropout._DropoutNd, models.InputDropout)
    layers = [module for module in model.modules() if isinstance(module, kinds) and module.p > 0]
    if not layers:
        raise ValueError(f"--dropout {share} has no meaning for a network that drops nothing; leave it out")
    for layer in layers:
        layer.p = share
