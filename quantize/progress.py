"""What a training loop tells a binary network: how far it is, and in which stage."""

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


def use_float_weights(model: nn.Module, enabled: bool) -> None:
    """Let the binary layers of ``model`` compute with their latent weights, or with their quantized ones again.

    The first of two training stages: binary inputs, float weights (Bulat & Tzimiropoulos, *XNOR-Net++*,
    2019; Liu et al., *ReActNet*, 2020). It is part of training, not of the model: neither the state_dict
    nor :func:`restore` knows it, and a network ships with it off.
    """
    for module in model.modules():
        if isinstance(module, BinaryLayer):
            module.float_weights = enabled
