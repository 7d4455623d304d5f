"""How far training is, for the schemes whose gradient is annealed."""

from torch import nn

from .layers import BinaryLayer


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell the annealed layers of ``model`` how far training is: 0 at its start, 1 at its end.

    A model without such layers is left as it is. Raises ValueError outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}; it must lie between 0 (start of training) and 1 (end)")
    for module in model.modules():
        if isinstance(module, BinaryLayer) and module.scheme.annealed:
            module.progress.fill_(progress)
            module.progress_set = True
