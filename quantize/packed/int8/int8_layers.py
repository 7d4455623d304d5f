"""Float layers on numbers of 8 bits: what a number stands for, and the layers of a converted model that hold them.

Jacob et al., *Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference*, 2018: the
input of a layer is ``step (q - zero)`` with q from 0 to 255, between the smallest and the largest value that it had on
the calibration images; a filter is ``step w`` with w from -127 to 127. Sums are whole numbers, of 32 bits.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import kernels
from ...kernels import ConvGeometry, Epilogue, cpu_layers
from .. import ops
from ..float_conv import FloatConv2d, geometry_of

if TYPE_CHECKING:
    from .calibration import Int8Report

LARGEST_NUMBER, LARGEST_WEIGHT, WEIGHT_ZERO = 255, 127, 128
MOST_PRODUCTS = (2**31 - 1) // (LARGEST_NUMBER * LARGEST_WEIGHT)  # of a sum of 32 bits


class Numbers(NamedTuple):
    """Filters in 8 bits, and how inputs become such.

    Attributes:
        weight: w + 128, uint8 (out, n).
        scale: float64 (out,), by which sums are multiplied.
        inverse: float32, of an input's step.
        zero: the number of 0.0.
    """

    weight: np.ndarray
    scale: np.ndarray
    inverse: np.float32
    zero: int

    @classmethod
    def of(cls, rows: np.ndarray, low: float, high: float) -> "Numbers":
        """Of filters, float64 (out, n), whose inputs lie between ``low`` and ``high``."""
        low, high = min(low, 0.0), max(high, 0.0)
        inverse = np.float32(LARGEST_NUMBER / (high - low) if high > low else 1.0)
        step = 1 / np.float64(inverse)
        largest = np.abs(rows).max(1)
        filter_step = np.where(largest > 0, largest, 1.0) / LARGEST_WEIGHT
        weight = (np.rint(rows / filter_step[:, None]) + WEIGHT_ZERO).astype(np.uint8)
        return cls(weight, step * filter_step, inverse, int(np.rint(-low / step)))


class Int8Layer(nn.Module):
    """A convolution or linear layer of a converted model that computes with numbers of 8 bits.

    ``y = scale * sum of (q - zero) w + bias`` with ``q = round(x * x_inverse) + x_zero``, cut off at 0 and 255; the
    padding of a convolution is 0.0.

    Buffers:
        numbers: w + 128, uint8 (out, kh * kw * in).
        scale, bias: float32 (out,).
        x_inverse, x_zero: float32 ().

    Attributes:
        geometry: as a 2-D convolution.
        note: what :func:`quantize.conversion_report` says of the layer.
        report: what 8 bits changed, in all such layers of the model together.
    """

    numbers: Tensor
    scale: Tensor
    bias: Tensor
    x_inverse: Tensor
    x_zero: Tensor
    note: str = "a float layer in 8 bits"
    report: "Int8Report | None" = None
    _ordered: tuple[Tensor, float] | None = None  # weights of the native kernel, and x_inverse

    def __init__(self, layer: nn.Module, geometry: ConvGeometry, low: float, high: float):
        """In the place of a float ``layer`` whose inputs lie between ``low`` and ``high``."""
        super().__init__()
        self.geometry = geometry
        weight, bias = cast(Tensor, layer.weight).detach(), cast("Tensor | None", layer.bias)
        rows = weight.view(geometry.filters).permute(0, 2, 3, 1).flatten(1)
        made = Numbers.of(rows.double().cpu().numpy(), low, high)
        device = weight.device
        self.register_buffer("numbers", torch.from_numpy(made.weight).to(device))
        self.register_buffer("scale", torch.from_numpy(made.scale).float().to(device))
        self.register_buffer("bias", weight.new_zeros(len(rows)).float() if bias is None else bias.detach().float())
        self.register_buffer("x_inverse", torch.tensor(made.inverse, device=device))
        self.register_buffer("x_zero", torch.tensor(float(made.zero), device=device))

    @property
    def weight(self) -> Tensor:
        """The weight that the numbers stand for, in the float layer's shape."""
        return self._whole_weight() * (self.scale * self.x_inverse).view(-1, *[1] * (len(self._shape()) - 1))

    def _shape(self) -> tuple[int, ...]:
        return self.geometry.filters

    def _whole_weight(self) -> Tensor:
        """w in float32, in the float layer's shape."""
        out, channels, *kernel = self.geometry.filters
        whole = self.numbers.float() - WEIGHT_ZERO
        return whole.view(out, *kernel, channels).permute(0, 3, 1, 2).reshape(self._shape())

    def _convolve(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W); in plain torch where the library is not, or something traces what happens."""
        ops.refuse_gradient(x)
        if x.dtype is torch.float32 and x.numel() and not ops.is_traced(x) and kernels.is_native(x):
            weights, inverse = self._prepared()
            return cpu_layers.conv2d_int8(
                x.contiguous(), inverse, weights, self.geometry, Epilogue(self.scale, self.bias)
            )
        low = -self.x_zero
        values = x.float() * self.x_inverse
        values = torch.where(values > low, values, low).minimum(low + LARGEST_NUMBER).round()  # a NaN is the lowest
        g, (top, left, bottom, right) = self.geometry, self.geometry.padding
        padded = F.pad(values.double(), (left, right, top, bottom))  # sums of float64 are exact
        filters = self._whole_weight().view(g.filters).double()
        sums = F.conv2d(padded, filters, None, g.stride, 0, g.dilation).float()
        return (sums * self.scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)

    def _prepared(self) -> tuple[Tensor, float]:
        if self._ordered is None:
            weights = cpu_layers.prepare_numbers(self.numbers, self.geometry, int(self.x_zero))
            self._ordered = weights, float(self.x_inverse)
        return self._ordered

    def state_problems(self, state_dict: Mapping[str, Any], prefix: str) -> list[str]:
        """Why the state under ``prefix`` is not one of this layer; what is missing is no problem here."""
        if prefix + "weight" in state_dict:
            return ["the state has a float weight, this layer numbers of 8 bits; convert without float_layers='int8'"]
        return []

    def _load_from_state_dict(self, *arguments):
        super()._load_from_state_dict(*arguments)
        self._ordered = None  # the numbers are the same tensor with other values

    def _apply(self, fn, recurse=True):
        self._ordered = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ordered": None}


class Int8Conv2d(Int8Layer):
    """(N, C, H, W) or (C, H, W) to (N, out, H', W') or (out, H', W'), as nn.Conv2d."""

    def __init__(self, layer: nn.Conv2d, low: float, high: float):
        super().__init__(layer, geometry_of(layer), low, high)

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(input) if input.dim() == 4 else self._convolve(input.unsqueeze(0)).squeeze(0)

    def extra_repr(self) -> str:
        g = self.geometry
        return f"{g.channels}, {g.out_channels}, kernel_size={g.kernel}, stride={g.stride}, padding={g.padding}"


class Int8Linear(Int8Layer):
    """(..., in) to (..., out), as nn.Linear."""

    def __init__(self, layer: nn.Linear, low: float, high: float):
        super().__init__(layer, ConvGeometry(layer.in_features, layer.out_features), low, high)

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1], 1, 1)
        return self._convolve(rows).view(*input.shape[:-1], self.geometry.out_channels)

    def _shape(self) -> tuple[int, ...]:
        return self.geometry.filters[:2]

    def extra_repr(self) -> str:
        return f"in_features={self.geometry.channels}, out_features={self.geometry.out_channels}"


def has_8_bit_form(layer: nn.Module) -> bool:
    """Whether a float layer can become an :class:`Int8Layer`: by its very class, whose forward is known."""
    if type(layer) not in (nn.Conv2d, FloatConv2d, nn.Linear) or layer._parameters.get("weight") is None:
        return False
    if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or layer.padding_mode != "zeros"):
        return False
    return cast(Tensor, layer.weight)[0].numel() <= MOST_PRODUCTS


def in_8_bits(layer: nn.Module, low: float, high: float) -> Int8Layer:
    """What takes the place of a layer that :func:`has_8_bit_form`, whose inputs lie between ``low`` and ``high``."""
    if isinstance(layer, nn.Conv2d):
        return Int8Conv2d(layer, low, high)
    return Int8Linear(cast(nn.Linear, layer), low, high)
