"""Format "qonnx": binary layers in the QONNX dialect, which FINN and hls4ml read for FPGAs.

Signs and +-1 weights are ``BipolarQuant`` nodes, other low-bit values ``Quant`` nodes, all with scale 1: their
sums are whole numbers, and the scale is a ``Mul`` after them. Pappalardo et al., *QONNX: Representing
Arbitrary-Precision Quantized Neural Networks*, 2022. onnxruntime does not know these nodes.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..binary.quantized_layer import QuantizedLayer
from ..scheme import FLOAT_BITS, QuantizedWeight, Scheme
from .lowering import Network, onnx_node, replaced
from .standard_format import STORED, StoredLayer, constants_of, stored_weight

DOMAIN = "qonnx.custom_op.general"
VERSION = 1
_MOST_BITS = 9  # of a signed weight: DoReFa's 8 bits are the odd numbers from -255 to 255
_INSTEAD = "use format 'standard', or another scheme for it"


def with_dialect(layer: QuantizedLayer, network: Network) -> QuantizedLayer:
    """The layer over its constants, its low-bit weight and input the outputs of nodes.

    Raises ValueError where it has values that neither ``BipolarQuant`` nor ``Quant`` gives exactly.
    """
    input, constants = _input_of(layer.scheme), constants_of(layer)
    node = _make_whole(constants, layer)

    def quantized_weight(lowered: StoredLayer) -> QuantizedWeight:
        values, scale = stored_weight(lowered)
        return QuantizedWeight(node(values), scale)

    methods: dict[str, Callable] = {**STORED, "quantized_weight": quantized_weight}
    if not layer.kernel_size:
        methods["apply_weight"] = _matmul
        for name in ("weight_bits", "weight_levels"):
            weight = constants[name]
            constants[name] = None if weight is None else weight.t().contiguous()
    lowered = replaced(layer, constants, **methods)
    lowered.scheme = copy.copy(layer.scheme)
    vars(lowered.scheme)["input"] = input  # a scheme is frozen
    return lowered


def _matmul(layer: QuantizedLayer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer whose weight is stored as ``MatMul`` takes it, so that no ``Transpose`` stands between."""
    y = torch.matmul(x, weight)
    return y if bias is None else y + bias


def _input_of(scheme: Scheme) -> Callable[[Tensor, Any], Tensor]:
    """What stands for ``scheme.input``. ValueError where there is nothing."""
    bits = scheme.input_bits
    if bits is None:
        raise ValueError(f"scheme {str(scheme)!r} quantizes its input in a way of its own; {_INSTEAD}")
    if scheme.signed_input:
        return lambda x, layer: _bipolar(x)
    return scheme.input if bits == FLOAT_BITS else lambda x, layer: _unit(x, bits)


def _make_whole(constants: dict[str, Tensor | None], layer: QuantizedLayer) -> Callable[[Tensor], Tensor]:
    """Make the weight of a layer, in place, floats that a node gives back as they are; returns the node."""
    bits, levels, scale = (constants[name] for name in ("weight_bits", "weight_levels", "weight_scale"))
    if bits is not None:
        whole = bits.float()
    elif levels is None or layer.float_weights or layer.scheme.weight_bits == FLOAT_BITS:
        return lambda values: values
    else:
        whole, step = _whole_numbers(levels)
        constants["weight_scale"] = step if scale is None else step * scale
    constants["weight_bits"] = whole
    if bool((whole.abs() == 1).all()):
        return _bipolar
    most = 1 + int(whole.abs().max()).bit_length()
    return lambda values: _quant(values, most, signed=True)


def _whole_numbers(levels: Tensor) -> tuple[Tensor, Tensor]:
    """(whole numbers, step): ``levels`` as their product. ValueError where they are not multiples of a step."""
    values = levels.unique()
    gap = values.diff().min() if len(values) > 1 else values.abs().max()
    for step in (gap, gap / 2):  # a level may be 0, or lie between two
        whole = (levels / step).round()
        if whole.abs().max() < 2 ** (_MOST_BITS - 1) and torch.allclose(whole * step, levels, rtol=1e-6, atol=0):
            return whole, (levels.abs().max() / whole.abs().max()).reshape(1)
    raise ValueError(f"its {len(values)} weight levels are not multiples of one step; {_INSTEAD}")


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
