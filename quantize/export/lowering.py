"""What the rows of :mod:`.formats` are made of: from a layer to the module that is traced in its place."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..kernels import ConvGeometry
from ..packed.flow import Flow
from ..packed.layers import PackedLayer
from ..packed.pool import PackedMaxPool2d
from .functions import DOMAIN, DOMAIN_VERSION

Layer = TypeVar("Layer", bound=nn.Module)


@dataclasses.dataclass
class Network:
    """What the lowering of a layer may know of the network around it.

    Attributes:
        flow: who hands what to whom in a converted model; empty of another.
        bits: id of a latent weight -> what is stored of it: layers that share a weight share its bits.
    """

    flow: Flow
    bits: dict[int, Tensor] = dataclasses.field(default_factory=dict)


# From a layer, which stays as it is, to what is traced in its place. ValueError: the format has no form for it.
Lowering = Callable[[Any, Network], nn.Module]


def lowering_of(layer: nn.Module, table: Mapping[type, Lowering]) -> Lowering | None:
    """What a table has for the class of ``layer``, or for the nearest of its base classes that stands there."""
    return next((table[base] for base in type(layer).__mro__ if base in table), None)


def replaced(layer: Layer, tensors: Mapping[str, Tensor | None], **methods: Callable) -> Layer:
    """A copy of ``layer`` for tracing. Its class stays, and so does a forward that a user's subclass has.

    Args:
        tensors: buffers in the place of parameters, buffers or attributes of these names; see :func:`keep`.
        methods: functions of the copy and the arguments, in the place of its methods.
    """
    lowered = copy.copy(layer)
    own = {name: copy.copy(value) for name, value in vars(layer).items() if isinstance(value, dict)}
    vars(lowered).update(own, **{name: MethodType(function, lowered) for name, function in methods.items()})
    keep(lowered, **tensors)
    return lowered


def keep(module: nn.Module, **tensors: Tensor | None) -> None:
    """Make tensors buffers, in place, whatever had their names; None becomes a plain attribute.

    torch.export miscounts buffers that are None where the model is one layer.
    """
    for name, tensor in tensors.items():
        for store in (module._parameters, module._buffers, vars(module)):
            store.pop(name, None)
        place = vars(module) if tensor is None else module._buffers
        place[name] = tensor


def prelu(layer: nn.PReLU, network: Network) -> nn.PReLU:
    """A PReLU as ``relu(x) + slope min(x, 0)``, of which one is 0, so that the values are the same.

    onnxruntime's PRelu branches on each value: it took half of a ResNet-18 with RPReLUs, and 8 times as long as this.
    """
    return replaced(layer, {}, forward=_prelu) if type(layer).forward is nn.PReLU.forward else replaced(layer, {})


def _prelu(self: nn.PReLU, input: Tensor) -> Tensor:
    slope = self.weight.view(-1, *[1] * (input.dim() - 2)) if input.dim() > 2 else self.weight
    return input.relu() + slope * input.clamp(max=0)


class LoweredLayer(nn.Module):
    """A packed layer for tracing: its way from input to output, around a convolution that is nodes of the file.

    Bits between such layers are images (N, C, H, W), a number each. The packed layer is no submodule, so that only what
    is kept here is in the file; it says what a model's own code asks of its layers.
    """

    layer: PackedLayer
    threshold: Tensor

    def __init__(self, layer: PackedLayer):
        super().__init__()
        hooks = {name: copy.copy(value) for name, value in vars(layer).items() if "_hooks" in name}
        vars(self).update(hooks, layer=layer, training=layer.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["layer"], name)

    @property
    def weight(self) -> Tensor:
        """No values: a model that is traced asks for the type and device of a weight (T5), or for its sizes."""
        return torch.empty(()).expand(*self.layer.geometry.filters[:2], *self.layer.kernel_size)

    def forward(self, input: Tensor) -> Tensor:
        layer, image = self.layer, self.to_image(input)
        if layer.padding_mode != "zeros":
            image = layer.pad_with_values(image)
        geometry = layer.geometry if layer.pad is None else layer.padded_geometry((image.shape[2], image.shape[3]))
        scale = layer.window_mean(image, geometry, self.threshold) if layer.window_scale else None
        return self.from_image(self.convolve(image, geometry, scale), input)

    def to_image(self, x: Tensor) -> Tensor:
        """The input as (N, C, H, W)."""
        return x if self.layer.folding.input_bits else self.layer.to_image(x)

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        """The output of the convolution in the shape that belongs to the input ``x``."""
        return y if self.layer.folding.output_bits else self.layer.from_image(y, x)

    def convolve(self, image: Tensor, geometry: ConvGeometry, input_scale: Tensor | None) -> Tensor:
        """The nodes of the format for the convolution and all that the layer computes after it."""
        raise NotImplementedError


def onnx_node(
    name: str,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    version: int | None = None,
) -> Tensor:
    """The output of a node in the exported graph; nothing is computed.

    Args:
        name: of the operator, "domain::name" where it is not of the ONNX standard.
        version: of its domain.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}
    return torch.onnx.ops.symbolic(name, inputs, plain, dtype=dtype, shape=shape, version=version)


def call(name: str, inputs: Sequence[Tensor], attributes: Mapping[str, Any], shape: Sequence[int]) -> Tensor:
    """The output of a call of a function of ours, see :mod:`.functions`."""
    return onnx_node(f"{DOMAIN}::{name}", inputs, attributes, shape, version=DOMAIN_VERSION)


def conv_attributes(g: ConvGeometry) -> dict[str, Any]:
    """How the standard's convolutions call a geometry."""
    sizes = {"kernel_shape": g.kernel, "strides": g.stride, "pads": g.padding, "dilations": g.dilation}
    return {**sizes, "group": g.groups}


def size_hint(image: Tensor) -> dict[str, Any]:
    """The attribute that says for which sizes a weight is prepared; 0 is an open one."""
    return {"size_hint": tuple(n if isinstance(n, int) else 0 for n in image.shape[2:])}


def pool_node(name: str, pool: PackedMaxPool2d, inputs: Sequence[Tensor], **options: Any) -> Tensor:
    """A max pooling of the image that is the first input, with the standard's attributes; the rest as in onnx_node."""
    batch, channels, *size = inputs[0].shape
    sizes = {"kernel_shape": pool.kernel, "strides": pool.stride, "pads": pool.padding * 2, "dilations": pool.dilation}
    attributes = {**sizes, "ceil_mode": int(pool.ceil_mode)}
    return onnx_node(name, inputs, attributes, (batch, channels, *pool.output_size(*size)), **options)


def turn_of(flip: Tensor) -> Tensor:
    """-1 where flipped, else +1."""
    return 1.0 - 2.0 * flip.to(torch.float32)


def turned(threshold: Tensor | None, flip: Tensor | None, channels: int) -> tuple[Tensor, Tensor]:
    """(threshold turn, turn): x <= t is -x >= -t."""
    turn = torch.ones(channels, dtype=torch.float32) if flip is None else turn_of(flip)
    return (torch.zeros_like(turn) if threshold is None else threshold) * turn, turn
