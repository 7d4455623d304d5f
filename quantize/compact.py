"""A trained binary network in its smallest form that still trains: a bit a binary weight, everything else as it is.

A packed model (:func:`quantize.convert`) is for inference: batch norms have become thresholds, and no gradient passes.
This is the state of the *prepared* model, with the bits of each binary layer's weight and their scales in place of the
weight that training changes. :func:`load_compact_state` makes weights of them that mean the same:
:meth:`quantize.Scheme.latent_weight` finds latent weights whose quantization these bits are.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .binary.binary_layer import BinaryLayer
from .packing import bits_to_bytes, bytes_to_bits
from .ste import plus_minus

BITS, SCALE = "weight_signs", "weight_scale"  # in place of a binary layer's "weight"
ROUNDING = 1e-5  # relative: of a scale, which is a mean over the weights


def compact_state(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a prepared ``model``, with ``weight_signs`` and ``weight_scale`` for each binary weight.

    Signs are uint8, eight weights to a byte in the order of the filters (out, in / groups, *kernel); a scale is float32
    and has their dimensions.

    Raises ValueError where a layer's weight has more than 1 bit, or its bits cannot become a weight again.
    """
    state = dict(model.state_dict())
    for name, layer in _binary_layers(model):
        values, scale = _quantized(layer)
        if not bool((values.abs() == 1).all()):
            raise ValueError(
                f"layer {name!r} of scheme {str(layer.scheme)!r} has weights other than +-1, which signs do not hold; "
                "save its state_dict as it is"
            )
        _check_comes_back(layer, name, values, scale)
        del state[f"{name}.weight"]
        state[f"{name}.{BITS}"] = bits_to_bytes((values > 0).flatten())
        state[f"{name}.{SCALE}"] = scale
    return state


@torch.no_grad()
def load_compact_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a prepared ``model`` what :func:`compact_state` kept of one of the same form.

    In evaluation it gives that model's outputs, to the rounding of the scales; it trains on from latent weights whose
    size is that of the scales. Nothing changes where an error is raised.

    Raises ValueError for a state of another network or scheme.
    """
    whole, kept = dict(state), {}
    for name, layer in _binary_layers(model):
        kept[name] = values, scale = _take(whole, name, layer)
        whole[f"{name}.weight"] = _latent(layer, values, scale)
    _check_fits(model, whole)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(whole)
    try:
        for name, layer in _binary_layers(model):
            _check_quantizes_to(layer, name, *kept[name])
    except ValueError:
        model.load_state_dict(before)
        raise


def _binary_layers(model: nn.Module) -> Iterator[tuple[str, BinaryLayer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, BinaryLayer))


@torch.no_grad()
def _quantized(layer: BinaryLayer) -> tuple[Tensor, Tensor]:
    """Values and scale of the weight in evaluation, in filter layout."""
    training = layer.training
    values, scale = layer.eval().quantized_weight()
    layer.train(training)
    ones = values.new_ones((len(values),) + (1,) * (values.dim() - 1))
    return values, ones if scale is None else scale.expand_as(ones).clone()


def _take(state: dict[str, Tensor], name: str, layer: BinaryLayer) -> tuple[Tensor, Tensor]:
    """Values and scale of a layer, out of ``state``. Raises ValueError where they are not there, or not the layer's."""
    bits, scale = (state.pop(f"{name}.{key}", None) for key in (BITS, SCALE))
    if bits is None or scale is None:
        raise ValueError(f"the state has no signs and scales of layer {name!r}: it is of another network or plan")
    shape = layer.to_filters(layer.weight).shape
    for what, found, expected in (
        ("signs", bits, (-(-shape.numel() // 8),)),
        ("scales", scale, (shape[0], *(1,) * (len(shape) - 1))),
    ):
        if tuple(found.shape) != expected:
            raise ValueError(
                f"the state's {what} of layer {name!r} are {tuple(found.shape)}; filters {tuple(shape)} have "
                f"{expected}: it is of another network"
            )
    return plus_minus(bytes_to_bits(bits, shape.numel()), layer.weight.dtype).view(shape), scale


def _latent(layer: BinaryLayer, values: Tensor, scale: Tensor) -> Tensor:
    """Weights, in the layer's own form, that its scheme quantizes to ``values * scale``."""
    return layer.from_filters(layer.scheme.latent_weight(values, scale)).to(layer.weight.dtype)


def _check_quantizes_to(layer: BinaryLayer, name: str, values: Tensor, scale: Tensor) -> None:
    """Raises ValueError where the layer's weight is quantized to something else: it would not be what was trained."""
    again, scale_again = _quantized(layer)
    if not (torch.equal(again, values) and torch.allclose(scale_again, scale, rtol=ROUNDING, atol=0)):
        raise ValueError(
            f"layer {name!r} of scheme {str(layer.scheme)!r} does not make these bits and scales of a weight: they are "
            "another scheme's, or its latent_weight is not the inverse of its weight; keep the state_dict as it is"
        )


@torch.no_grad()
def _check_comes_back(layer: BinaryLayer, name: str, values: Tensor, scale: Tensor) -> None:
    own = layer.weight.data
    layer.weight.data = _latent(layer, values, scale)
    try:
        _check_quantizes_to(layer, name, values, scale)
    finally:
        layer.weight.data = own


def _check_fits(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    thresholds = {f"{name}.threshold" for name, _ in _binary_layers(model)}  # which a layer takes as it comes
    for name in sorted((own.keys() ^ found.keys()) - thresholds):
        raise ValueError(f"the state {'lacks' if name in own else 'has'} {name!r}: it is of another network or plan")
    for name, shape in own.items():
        if name in found and found[name] != shape:
            raise ValueError(f"{name!r} is {tuple(found[name])} in the state and {tuple(shape)} in the network")
