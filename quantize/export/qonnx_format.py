"""Format "qonnx": binary layers in the QONNX dialect, which FINN and hls4ml read for FPGAs.

Signs and +-1 weights are ``BipolarQuant`` nodes, other low-bit values ``Quant`` nodes, all with scale 1: their
sums are whole numbers, and the scale is a ``Mul`` after them. Pappalardo et al., *QONNX: Representing
Arbitrary-Precision Quantized Neural Networks*, 2022. onnxruntime does not know these nodes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..binary.quantized_layer import QuantizedLayer
from ..scheme import FLOAT_BITS, QuantizedWeight, Scheme
from . import standard_format
from .lowering import onnx_node

DOMAIN = "qonnx.custom_op.general"
VERSION = 1
_MOST_BITS = 9  # of a signed weight: DoReFa's 8 bits are the odd numbers from -255 to 255


def lower(model: nn.Module, batch: Any) -> tuple[nn.Module, nn.Module]:
    """(the model that the file is compared with, the model that is traced).

    Raises ValueError where a layer has values that neither ``BipolarQuant`` nor ``Quant`` gives exactly.
    """
    reference, lowered = standard_format.lower(model, batch, "qonnx")
    layers = [(name, layer) for name, layer in lowered.named_modules() if isinstance(layer, QuantizedLayer)]
    for name, layer in layers:
        try:
            _speak_qonnx(layer)
        except ValueError as error:
            raise ValueError(
                f"layer {name!r} has no QONNX form: {error}; use format 'standard', or another scheme for it"
            ) from None
    return reference, lowered


class _Dialect:
    """Mixin over a frozen binary layer: its low-bit weight is the output of a node."""

    quantize_weight: Callable[[Tensor], Tensor]

    def quantized_weight(self) -> QuantizedWeight:
        values, scale = super().quantized_weight()
        return QuantizedWeight(self.quantize_weight(values), scale)


class _DialectLinear(_Dialect):
    """The weight is stored as ``MatMul`` takes it, so that no ``Transpose`` stands between."""

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = torch.matmul(x, weight)
        return y if bias is None else y + bias


class _DialectScheme:
    """A scheme whose quantized input is the output of a node."""

    def __init__(self, scheme: Scheme, input: Callable[[Tensor, nn.Module], Tensor]):
        self.scheme, self.input = scheme, input

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheme, name)


@torch.no_grad()
def _speak_qonnx(layer: QuantizedLayer) -> None:
    """Make a frozen layer one of the dialect, in place."""
    layer.scheme = _DialectScheme(layer.scheme, _input_of(layer.scheme))
    layer.quantize_weight = _store_weight(layer)
    kind = _Dialect
    if not layer.kernel_size:
        kind, stored = _DialectLinear, "weight_levels" if layer.weight_bits is None else "weight_bits"
        _store(layer, stored, getattr(layer, stored).t().contiguous())
    layer.__class__ = type(type(layer).__name__, (kind, type(layer)), {})


def _input_of(scheme: Scheme) -> Callable[[Tensor, nn.Module], Tensor]:
    """What stands for ``scheme.input``. ValueError where there is nothing."""
    bits = scheme.input_bits
    if bits is None:
        raise ValueError(f"scheme {str(scheme)!r} quantizes its input in a way of its own")
    if scheme.signed_input:
        return lambda x, layer: _bipolar(x)
    return scheme.input if bits == FLOAT_BITS else lambda x, layer: _unit(x, bits)


def _store_weight(layer: QuantizedLayer) -> Callable[[Tensor], Tensor]:
    """Store the weight of a frozen layer as floats that a node gives back as they are; the node."""
    if layer.weight_bits is None:
        if layer.float_weights or layer.scheme.weight_bits == FLOAT_BITS:
            return lambda values: values
        whole, step = _whole_numbers(layer.weight_levels)
        _store(layer, "weight_bits", whole)
        _store(layer, "weight_scale", step if layer.weight_scale is None else step * layer.weight_scale)
    else:
        _store(layer, "weight_bits", layer.weight_bits.float())
    largest = int(layer.weight_bits.abs().max())
    if bool((layer.weight_bits.abs() == 1).all()):
        return _bipolar
    return lambda values: _quant(values, 1 + largest.bit_length(), signed=True)


def _store(layer: QuantizedLayer, name: str, value: Tensor) -> None:
    """Make ``value`` a buffer, whatever ``name`` is now."""
    if hasattr(layer, name):
        delattr(layer, name)
    layer.register_buffer(name, value)


def _whole_numbers(levels: Tensor) -> tuple[Tensor, Tensor]:
    """(whole numbers, step): ``levels`` as their product. ValueError where they are not multiples of a step."""
    values = levels.unique()
    gap = values.diff().min() if len(values) > 1 else values.abs().max()
    for step in (gap, gap / 2):  # a level may be 0, or lie between two
        whole = (levels / step).round()
        if whole.abs().max() < 2 ** (_MOST_BITS - 1) and torch.allclose(whole * step, levels, rtol=1e-6, atol=0):
            return whole, (levels.abs().max() / whole.abs().max()).reshape(1)
    raise ValueError(f"its {len(values)} weight levels are not multiples of one step")


def _bipolar(x: Tensor) -> Tensor:
    """+1 where ``x >= 0``, else -1."""
    return _node("BipolarQuant", [x, torch.ones(())], x, {})


def _quant(x: Tensor, bits: int, signed: bool) -> Tensor:
    """``x`` rounded, ties to even, and clamped to the integers of so many bits (-2^(bits - 1) is none of them)."""
    inputs = [x, torch.ones(()), torch.zeros(()), torch.tensor(float(bits))]
    return _node("Quant", inputs, x, {"signed": int(signed), "narrow": int(signed), "rounding_mode": "ROUND"})


def _unit(x: Tensor, bits: int) -> Tensor:
    """An unsigned input of so many bits: x clamped to [0, 1], rounded to multiples of ``1 / (2^bits - 1)``."""
    levels = 2**bits - 1
    return _quant(x.clamp(0, 1) * levels, bits, signed=False) / levels


def _node(name: str, inputs: list[Tensor], like: Tensor, attributes: dict[str, Any]) -> Tensor:
    return onnx_node(f"{DOMAIN}::{name}", inputs, attributes, like.shape, version=VERSION)
