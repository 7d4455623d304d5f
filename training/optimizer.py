"""What changes the weights: torch's optimizers by name, and an average of the weights over the steps."""

from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import quantize
from quantize import BinaryLayer

from .checkpoint import changed
from .config import TrainConfig
from .schedule import Stage

RATE = "rate"  # of a parameter group: its learning rate as a multiple of the run's

OPTIMIZERS = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}


def create_optimizer(config: TrainConfig, model: nn.Module, stage: Stage) -> optim.Optimizer:
    """``config.optimizer`` over all trainable parameters; clips latent weights where the configuration says so.

    Raises ValueError for ``--norm-bias-rate`` without a batch norm.
    """
    options = {"lr": config.lr}
    if config.optimizer != "rmsprop":
        options["fused"] = next(model.parameters()).device.type in ("cpu", "cuda")  # one pass over the parameters
    if config.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = config.momentum
    if config.nesterov:
        options["nesterov"] = True
    groups = quantize.param_groups(model, stage.weight_decay)
    if config.norm_bias_rate != 1:
        groups = with_rate_of_biases(groups, model, config.norm_bias_rate)
    optimizer = OPTIMIZERS[config.optimizer](groups, **options)
    if config.clip_weights:
        quantize.clip_after_step(optimizer, model, config.clip_weights)
    return optimizer


def with_rate_of_biases(groups: list[dict[str, Any]], model: nn.Module, factor: float) -> list[dict[str, Any]]:
    """``groups``, and one more for the biases of batch norm, which no other group has then.

    Its learning rate is ``factor`` times that of the others: it follows the data faster than the weights do
    (Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, with a factor of 64).

    Raises ValueError where there is no such bias.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    biases = [norm.bias for norm in norms if norm.bias is not None and norm.bias.requires_grad]
    if not biases:
        raise ValueError(f"--norm-bias-rate {factor:g} has no meaning for a network without batch norm; leave it out")
    own = set(map(id, biases))
    others = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
    return [*others, {"params": biases, "weight_decay": 0.0, RATE: factor}]


def set_learning_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """Let the next step of ``optimizer`` have the learning rate ``lr``, in each group times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(RATE, 1)


def saved_optimizer(optimizer: optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint has of ``optimizer``: its state_dict, and for how many parameters there is a state."""
    saved = optimizer.state_dict()
    return {**saved, "kept": len(saved["state"])}


def load_optimizer(optimizer: optim.Optimizer, saved: dict[str, Any], path: str) -> None:
    """Give ``optimizer`` the state in the checkpoint ``path``; what its groups say is the configuration's.

    Raises ValueError for one of other parameters, or of another optimizer.
    """
    state = saved["state"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = _kept(optimizer)
    for index, values in state.items():
        found = {name: torch.as_tensor(value).shape for name, value in values.items() if value is not None}
        if 0 <= index < len(parameters):
            shape = parameters[index].shape
            if found == {name: shape if per_element else torch.Size() for name, per_element in kept.items()}:
                continue
        raise changed(path, f"['optimizer'] has for {index} what is no state of {type(optimizer).__name__}")
    if saved.get("kept", len(state)) != len(state):
        raise changed(path, f"['optimizer'] has the state of {len(state)} parameters instead of {saved['kept']}")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _kept(optimizer: optim.Optimizer) -> dict[str, bool]:
    """What ``optimizer`` keeps of a parameter, and whether for each of its elements: its twin is asked after a step."""
    zeros = nn.Parameter(torch.zeros(2))
    zeros.grad = torch.zeros(2)
    twin = type(optimizer)([zeros])
    twin.param_groups[0].update({name: value for name, value in optimizer.param_groups[0].items() if name != "params"})
    twin.step()
    return {name: value.shape == zeros.shape for name, value in twin.state[zeros].items() if value is not None}


class WeightAverage(AveragedModel):
    """``average <- decay * average + (1 - decay) * weights`` after each step, from the first step's weights on.

    The statistics of batch norm are averaged too; whole numbers (its counter) are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, multi_avg_fn=_average(decay), use_buffers=True)
        self.module.requires_grad_(False).eval()

    def update_parameters(self, model: nn.Module) -> None:
        super().update_parameters(model)
        for own, layer in zip(self.module.modules(), model.modules(), strict=True):
            if isinstance(layer, BinaryLayer):  # the first batch has given the model's thresholds their values
                own.threshold_pending = layer.threshold_pending


def _average(decay: float):
    floating = get_ema_multi_avg_fn(decay)

    def update(averages: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        if averages[0].is_floating_point():
            floating(averages, values, count)
        else:
            torch._foreach_copy_(averages, values)

    return update
