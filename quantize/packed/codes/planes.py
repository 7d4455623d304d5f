"""Layers on the kernels of signs that are no such convolution themselves: of several bits, transposed, and 3-D.

An input of k bits is ``a = q / A`` with the integer ``q = sum_i 2^i a_i``, A = 2^k - 1, and a weight of l bits
``w = (2 m - B) / B`` with ``m = sum_j 2^j b_j``, B = 2^l - 1 (Zhou et al., *DoReFa-Net*, 2016, eq. 5 and 9). The signs
``s_i = 2 a_i - 1`` and ``t_j = 2 b_j - 1`` of their bits give

    2 q = sum_i 2^i s_i + A,    2 m - B = sum_j 2^j t_j,
    2 A B (a * w) = sum_ij 2^(i+j) (s_i * t_j)  +  A sum_j 2^j (1 * t_j).

The k l convolutions of signs are one call of the kernels, with the planes of the input as images of one batch and those
of the weight as filters. The last sum is what the weights of the window's taps that lie inside the image add up to. All
are integers: exact, where an expanded weight rounds. Inputs that are signs themselves have A = 1 and no last sum.

:mod:`.forms` makes one convolution or several in two dimensions of whatever the layer is.
"""

import torch
from torch import Tensor

from ...binary.adapters import no_padding
from ...binary.conv2d_form import from_batch, to_batch
from ...binary.quantized_layer import QuantizedLayer
from ...kernels import Binarize, cpu, cpu_layers
from ...kernels.calls import Call
from .forms import Flat, Form, form_of

MOST_PLANES = 8  # of a convolution: with more, one of floats is faster
MOST_BITS = 4


class LayerPlanes:
    """What a layer that stores codes computes with, where its bits on both sides are few enough.

    Attributes:
        codes: of the weight that the planes were made of.
        form: None where the layer has to expand its weight.
    """

    def __init__(self, layer: QuantizedLayer, codes: Tensor):
        self.codes = codes
        self.form: Form | None = None
        self.largest = 2**layer.scheme.weight_bits - 1
        self._inside: tuple[torch.Size, Tensor] | None = None  # of the last size
        weights = integer_weights(layer) if has_planes(layer) else None
        if weights is not None:
            self.form = form_of(layer, weights)

    def compute(self, layer: QuantizedLayer, x: Tensor) -> Tensor | None:
        """The layer's operation on the quantized ``x``, which is less the threshold, and the values of its weight.

        None where it has to expand it.
        """
        if self.form is None:
            return None
        batch, bits = to_batch(layer, x), layer.scheme.input_bits
        if layer.scheme.signed_input or bits is None:
            y = self.form.weighted_sums(batch, 1, Binarize()).div_(self.largest)
        else:
            y = self._of_levels(self.form, layer.scheme.input(batch, layer), bits)
        return from_batch(layer, y, x)

    def bind(self, layer: QuantizedLayer, x: Tensor, scale: Tensor | None) -> tuple[Call, Tensor] | None:
        """All of the layer on inputs like ``x``, less the threshold, as one call of the library, and an empty result.

        None where it takes more than one. ``scale`` is the weight's.
        """
        form, scheme = self.form, layer.scheme
        if not isinstance(form, Flat) or form.backend is not cpu:
            return None
        if not all(t is None or (t.dtype is torch.float32 and t.is_contiguous()) for t in (x, scale, layer.bias)):
            return None
        bits = 0 if scheme.signed_input else scheme.input_bits or 0
        divisor = self.largest * max(2**bits - 1, 1)
        levels = cpu_layers.Levels(
            bits, scheme.weight_bits, form.planes.weights.data, form.totals_before, divisor, scale, layer.bias
        )
        if not layer.kernel_size:
            call, y = cpu_layers.bind_level_linear(x.reshape(-1, x.shape[-1]), levels, form.geometry)
            return call, y.view(*x.shape[:-1], -1)
        call, y = cpu_layers.bind_level_conv(to_batch(layer, x), levels, form.geometry)
        return call, from_batch(layer, y, x)

    def _of_levels(self, form: Form, batch: Tensor, bits: int) -> Tensor:
        """Of floats of ``bits`` bits in 0 to 1."""
        largest = 2**bits - 1
        q = batch.mul(largest).round_()
        if bits > 1:
            order = torch.channels_last if q.dim() == 4 and not q.is_contiguous() else torch.contiguous_format
            q = q.to(torch.uint8)
            q = torch.cat([(q >> i) & 1 for i in range(bits)]).to(torch.float32, memory_format=order)
        half = torch.full((batch.shape[1],), 0.5, dtype=torch.float32, device=batch.device)
        y = form.weighted_sums(q, bits, Binarize(half))
        return y.add_(self._inside_sums(form, batch.shape[2:]), alpha=largest).div_(2 * largest * self.largest)

    def _inside_sums(self, form: Form, size: torch.Size) -> Tensor:
        held = self._inside
        if held is None or held[0] != size:
            held = self._inside = size, form.inside_sums(size)
        return held[1]


def has_planes(layer: QuantizedLayer) -> bool:
    """Whether a layer that stores codes may compute plane by plane."""
    scheme = layer.scheme
    inputs, weights = 1 if scheme.signed_input else scheme.input_bits, scheme.weight_bits
    if not pads_with_zeros(layer):
        return False
    if layer.transposed and (len(layer.kernel_size) > 2 or max(layer.dilation) > 1):
        return False
    if inputs is None or max(inputs, weights) > MOST_BITS:
        return False
    return not layer.kernel_size or inputs * weights <= MOST_PLANES


def pads_with_zeros(layer: QuantizedLayer) -> bool:
    """Whether a layer pads its input with zeros, if at all."""
    return getattr(layer, "padding_mode", "zeros") == "zeros" and layer.adapter.pad is no_padding


def integer_weights(layer: QuantizedLayer) -> Tensor | None:
    """``2 m - B`` of a layer's weight as filters, float; None where its values are no such levels."""
    values, largest = layer.quantized_weight().values, 2**layer.scheme.weight_bits - 1
    codes = ((values * largest + largest) / 2).round().clamp_(0, largest)
    return 2 * codes - largest if torch.equal((2 * codes - largest) / largest, values) else None
