"""From a configuration, or a checkpoint, to a model."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
import quantize
from models.registry import TIMM_PREFIX
from quantize.binary.layers import FLOAT_CLASSES
from quantize.scheme import preferred_layouts

from .checkpoint import BEST, PACKED, changed, find_checkpoint, give_source, read_file, read_trained
from .config import TrainConfig
from .config.defaults import resolve
from .data import Normalization
from .data.augment import scaled
from .schedule import image_size
from .structure import mismatch
from .whitening import whiten_first

TIMM = "timm"  # --pretrained alone


def build_model(
    config: TrainConfig, classes: list[str], images: Tensor, sample: Iterable[Tensor] = ()
) -> tuple[nn.Module, quantize.Plan | None]:
    """A network with fresh or pretrained weights, its layers binary as the configuration says.

    Args:
        classes: names of the classes.
        images: a training batch (N, C, H, W) on the CPU; it shows the order of the layers and their inputs.
        sample: batches of training images, for ``--whiten``.

    Returns the model and its plan, None for a float network. Raises ValueError for a network that does not
    take such images, a pattern that matches nothing, weights of another network, or no first filters to whiten.
    """
    torch.manual_seed(config.seed)
    from_timm = config.pretrained == TIMM
    model = create_float(config.arch, len(classes), images.shape[1], pretrained=from_timm)
    weights = None if config.pretrained is None or from_timm else pretrained_weights(config.arch, config.pretrained)
    if weights is not None:  # before the plan: thresholds start at the means of a trained network's activations
        load_weights(model, usable(weights, model), config.pretrained, len(classes))
    check_shape(model, images, config)
    first = whiten_first(model, sample) if config.whiten else None  # before the plan, as weights are
    plan = None
    if config.effective_scheme is not None or config.overrides:
        plan = quantize.plan(model, config.effective_scheme, images, config.keep_float, config.overrides)
        model = quantize.apply_plan(model, plan, inplace=True)
        if weights is not None:
            load_weights(model, usable(weights, model), config.pretrained, len(classes))
    if isinstance(first, quantize.BinaryLayer):
        raise ValueError("--whiten needs a first layer that stays float; add it to --keep-float, or leave --whiten out")
    return model, plan


def create_float(arch: str, classes: int, channels: int, pretrained: bool = False) -> nn.Module:
    """The float network ``arch``, with timm's published weights where ``pretrained``."""
    options = {"num_classes": classes, "in_chans": channels}
    if not pretrained:
        return models.create_model(arch, schemes=preferred_layouts(), **options)
    if not arch.startswith(TIMM_PREFIX):
        if zoo := [f"--pretrained {dataset}" for name, dataset in models.list_pretrained() if name == arch]:
            raise ValueError(f"--pretrained does not say which weights of {arch!r}; write {' or '.join(zoo)}")
        raise ValueError(f"there are no published weights for {arch!r}; give a checkpoint: --pretrained CHECKPOINT")
    try:
        return models.create_model(arch, pretrained=True, **options)
    except (OSError, RuntimeError) as error:  # no network, or a network without weights
        raise ValueError(f"timm has no weights for {arch!r} at hand ({error}); leave out --pretrained") from error


def check_shape(model: nn.Module, images: Tensor, config: TrainConfig) -> None:
    """Raises ValueError where the network does not take images of this shape, or of a size that training gives it."""
    sizes = sorted({image_size(config, epoch) for epoch in range(config.epochs)}) if config.start_size else []
    shape, reason = tuple(images.shape[1:]), _refusal(model, images[:1])
    if reason is not None:
        own = resolve(config.arch).input_size
        fix = "change --img-size" + (f", or leave it out for the network's own {own}" if own else "")
        raise ValueError(f"{config.arch!r} does not take images of shape {shape} ({reason}); {fix}")
    for size in sizes:
        if (reason := _refusal(model, scaled(images[:1], size))) is not None:
            raise ValueError(
                f"--start-size {config.start_size} gives images of {size}x{size} pixels to {config.arch!r}, which does "
                f"not take them ({reason}); leave it out"
            )


def _refusal(model: nn.Module, images: Tensor) -> str | None:
    """Why the network does not take ``images``; None where it does."""
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        return str(error).partition("\n")[0].rstrip(".")
    finally:
        model.train(training)
    return None


def pretrained_weights(arch: str, pretrained: str) -> dict[str, Tensor]:
    """The state_dict that ``--pretrained`` names: of the zoo's ``arch`` for a dataset, else of a file.

    Raises FileNotFoundError or ValueError, in one sentence.
    """
    if (arch, pretrained) in models.list_pretrained():
        return models.create_model(arch, pretrained=pretrained).state_dict()
    return read_weights(pretrained)


def read_weights(path: str) -> dict[str, Tensor]:
    """The state_dict of a checkpoint of this trainer, of a run directory's best one, or of a plain file.

    Raises FileNotFoundError or ValueError, in one sentence.
    """
    file = find_checkpoint(path, BEST)
    contents = read_file(file)
    if isinstance(contents, dict) and PACKED in contents:
        raise ValueError(f"{str(file)!r} is packed: it holds bits instead of weights; {give_source(file)}")
    if isinstance(contents, dict) and "format" in contents:
        contents = read_trained(file)
    if isinstance(contents, dict):
        contents = contents.get("model", contents.get("state_dict", contents))
    if mismatch(contents, dict[str, Tensor]):
        raise ValueError(f"{str(file)!r} holds no weights: a dict of tensors by name is expected")
    return {name.removeprefix("module."): value for name, value in contents.items()}


def usable(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """``weights`` without what another scheme learned beside the weight and bias of a layer of ``model``."""

    def use(name: str) -> bool:
        layer_name, _, key = name.rpartition(".")
        layer = layers.get(layer_name)
        if name in own or not isinstance(layer, tuple(FLOAT_CLASSES.values())):
            return True
        return key == "threshold" and isinstance(layer, quantize.BinaryLayer) and layer.scheme.signed_input

    layers, own = dict(model.named_modules()), model.state_dict()
    return {name: value for name, value in weights.items() if use(name)}


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: str, classes: int | None = None) -> None:
    """Copy ``weights`` into ``model``.

    With ``classes`` given, tensors that differ only in the number of classes keep the model's own values.

    Raises ValueError for weights of another network, naming the first difference.
    """
    own = model.state_dict()
    different = [name for name in weights if name in own and own[name].shape != weights[name].shape]
    if classes is not None:
        other = {n for n in different if own[n].shape[:1] == (classes,) and own[n].shape[1:] == weights[n].shape[1:]}
        weights = {name: own[name] if name in other else w for name, w in weights.items()}
        different = [name for name in different if name not in other]
    kinds = [n for n, w in weights.items() if n in own and own[n].is_floating_point() != w.is_floating_point()]
    if kinds:
        types = f"{weights[kinds[0]].dtype} there, {own[kinds[0]].dtype} here"
        raise ValueError(f"{path!r} holds no weights of this network: {kinds[0]!r} has type {types}; use another file")
    if different:
        name = different[0]
        shapes = f"{tuple(weights[name].shape)} there, {tuple(own[name].shape)} here"
        raise ValueError(f"{path!r} holds another architecture: {name!r} has shape {shapes}; give its own --arch")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        name, where = (missing[0], "has no") if missing else (unexpected[0], "has an extra")
        raise ValueError(f"{path!r} holds another architecture: it {where} {name!r}; give its own --arch")


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a checkpoint says of its model.

    Attributes:
        path: the file.
        arch, scheme: as they were trained; scheme None for a float network.
        classes: names in the order of the outputs.
        input_size: (channels, height, width).
        normalization: of the pixels.
        epoch: epochs done.
        acc1: test accuracy in percent after them.
        config: the run's configuration.
        packed: the model holds bits, from a packed file.
    """

    path: Path
    arch: str
    scheme: str | None
    classes: list[str]
    input_size: tuple[int, int, int]
    normalization: Normalization
    epoch: int
    acc1: float
    config: dict[str, Any]
    packed: bool = False


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, ModelInfo]:
    """The trained model of a checkpoint, of a run directory's best one, or of a packed file, in evaluation mode.

    That of a packed file holds bits, as :func:`quantize.convert` makes them.

    Raises FileNotFoundError or ValueError, in one sentence, for a missing, damaged or foreign file.
    """
    file = find_checkpoint(path, BEST)
    checkpoint = read_trained(file)
    return rebuild(checkpoint, str(file)).to(device).eval(), model_info(checkpoint, file)


def rebuild(checkpoint: dict[str, Any], path: str) -> nn.Module:
    """The model of a checkpoint or packed file, on the CPU, with its weights."""
    model = create_float(checkpoint["arch"], len(checkpoint["classes"]), checkpoint["input_size"][0])
    if checkpoint["plan"] is not None:
        model = quantize.apply_plan(model, quantize.Plan.from_list(checkpoint["plan"]), inplace=True)
    if PACKED in checkpoint:
        return _load_packed(model, checkpoint, path)
    load_weights(model, checkpoint["model"], path)
    _check_takes(model, checkpoint, path)
    return model


def _check_takes(model: nn.Module, checkpoint: dict[str, Any], path: str) -> None:
    """Raises ValueError where the network does not take images of the size that the file names."""
    training = model.training
    try:
        with torch.no_grad():
            outputs = model.eval()(example_images(checkpoint))
    except (RuntimeError, ValueError, AssertionError, MemoryError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        size, arch = tuple(checkpoint["input_size"]), checkpoint["arch"]
        raise changed(path, f" has the input size {size}, which {arch!r} does not take ({reason})") from error
    finally:
        model.train(training)
    if outputs.shape != (1, len(checkpoint["classes"])):
        raise changed(path, f" has {len(checkpoint['classes'])} classes, and the network's output {outputs.shape[1:]}")


def _load_packed(model: nn.Module, contents: dict[str, Any], path: str) -> nn.Module:
    """The packed form of ``model`` with the bits of a packed file. Raises ValueError where they are another's."""
    packed = quantize.convert(model, example_images(contents))
    try:
        packed.load_state_dict(contents[PACKED])
    except RuntimeError as error:
        problem = str(error).partition("\n")[2].strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{str(path)!r} does not fit the network that it names, {contents['arch']!r} ({problem}); "
            "write it again with tools/convert.py and this version of xnorkit"
        ) from error
    return packed


def example_images(contents: dict[str, Any]) -> Tensor:
    """What a checkpoint's model is called with, (1, C, H, W): all zeros."""
    return torch.zeros(1, *contents["input_size"])


def model_info(checkpoint: dict[str, Any], path: Path) -> ModelInfo:
    """The facts of a checkpoint that :func:`rebuild` leaves out."""
    normalization = Normalization(*(tuple(checkpoint["normalization"][key]) for key in ("mean", "std")))
    plain = {key: checkpoint[key] for key in ("arch", "scheme", "classes", "epoch", "acc1", "config")}
    size, packed = tuple(checkpoint["input_size"]), PACKED in checkpoint
    return ModelInfo(path=path, input_size=size, normalization=normalization, packed=packed, **plain)


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
