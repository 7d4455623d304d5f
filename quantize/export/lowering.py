"""What the formats share that export packed layers: nodes of a kind, and bits that are images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..binary.layers import BinaryLayer
from ..kernels import ConvGeometry
from ..packed.convert import convert
from ..packed.layers import PackedLayer
from ..packed.pool import PackedMaxPool2d


def converted(model: nn.Module, batch: Any) -> nn.Module:
    """``model`` with packed layers, as it is or by :func:`quantize.convert`; a float model has none."""
    is_binary = any(isinstance(module, BinaryLayer) for module in model.modules())
    return convert(model, batch) if is_binary else model


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


def conv_attributes(g: ConvGeometry) -> dict[str, Any]:
    """How the standard's convolutions call a geometry."""
    sizes = {"kernel_shape": g.kernel, "strides": g.stride, "pads": g.padding, "dilations": g.dilation}
    return {**sizes, "group": g.groups}


def pool_attributes(pool: PackedMaxPool2d) -> dict[str, Any]:
    """How the standard's max pooling calls that of ``pool``."""
    sizes = {"kernel_shape": pool.kernel, "strides": pool.stride, "pads": pool.padding * 2, "dilations": pool.dilation}
    return {**sizes, "ceil_mode": int(pool.ceil_mode)}


class BitImages(PackedLayer):
    """Mixin over a packed layer's class: the bits that it gets and hands on are images (N, C, H, W), a number each."""

    @property
    def weight(self) -> Tensor:
        """No values: a model that is traced asks for the type and device of a weight (T5)."""
        return torch.empty(0)

    def to_image(self, x: Tensor) -> Tensor:
        return x if self.folding.input_bits else super().to_image(x)

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        return y if self.folding.output_bits else super().from_image(y, x)

    def _check(self, x: Tensor) -> None:
        """Bits are not words here."""

    def image_size(self, image: Tensor) -> tuple[int, int]:
        return tuple(image.shape[2:])

    def forget_empty_buffers(self) -> None:
        """Make buffers that are None plain attributes: torch.export miscounts those of a model that is one layer."""
        for name in [name for name, buffer in self._buffers.items() if buffer is None]:
            del self._buffers[name]
            setattr(self, name, None)


def turn_of(flip: Tensor) -> Tensor:
    """-1 where flipped, else +1."""
    return 1.0 - 2.0 * flip.to(torch.float32)


def turned(threshold: Tensor | None, flip: Tensor | None, channels: int) -> tuple[Tensor, Tensor]:
    """(threshold turn, turn): x <= t is -x >= -t."""
    turn = torch.ones(channels, dtype=torch.float32) if flip is None else turn_of(flip)
    return (torch.zeros_like(turn) if threshold is None else threshold) * turn, turn
