"""Layers that store their weights in bits as codes, and whether a model has been converted.

Those of several bits compute on the kernels plane by plane (:mod:`.planes`), linear layers and large convolutions of
floats by look-up (:mod:`.lookup`). The others expand their weights when they run: smaller convolutions of floats, and
whatever else there is no kernel for.
"""

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvTransposeNd

from ... import kernels, packing
from ...binary.layers import BinaryLayer, plain_class
from ...binary.quantized_layer import QuantizedLayer
from ...kept_bits import is_transformed
from ...kernels.calls import Call
from ...scheme import QuantizedWeight
from .. import ops
from ..layers import PackedLayer
from ..ops import BoundCall, BoundModule
from ..state import form_problems
from .lookup import LookedUp, SignConv, computes_here, has_lookup, has_sign_conv, most_outputs, most_rows
from .planes import LayerPlanes, has_planes

_EXPANDS = "expands its weight at each call"


class Parts(NamedTuple):
    """What a layer computes with, of which a call that is bound has the addresses."""

    codes: Tensor
    scale: Tensor | None
    bias: Tensor | None
    threshold: Tensor | None
    held: LayerPlanes | LookedUp | SignConv | None  # and what was made of the codes, which has to live

    @classmethod
    def of(cls, layer: "ExpandedLayer") -> "Parts":
        buffers, parameters = layer._buffers, layer._parameters
        codes = cast(Tensor, buffers["weight_codes"])
        return cls(codes, buffers["weight_scale"], parameters.get("bias"), parameters.get("threshold"), layer._on_bits)

    def are_of(self, layer: "ExpandedLayer") -> bool:
        """Whether a layer has these: the same tensors, not equal ones."""
        return all(map(operator.is_, self, Parts.of(layer)))


class ExpandedLayer(QuantizedLayer, BoundModule):
    """The evaluation forward of a binary layer, of any kind, with a weight that is computed from codes.

    Buffers:
        weight_codes: uint8 (out, bytes); a code of ``code_bits`` bits for each value of a filter, in the
            order of the filter's elements, least significant bit first.
        weight_levels: float (2^code_bits,), the values that codes stand for, in increasing order.
        weight_scale: as in :class:`quantize.QuantizedWeight`, or None.

    Attributes:
        keeps_weight: see :meth:`keep_weight`.
        kind: the class of binary layers whose forward it has.
        filter_shape: (out_channels, in_channels / groups, *kernel).
    """

    weight_codes: Tensor
    weight_levels: Tensor
    weight_scale: Tensor | None
    kind: type[BinaryLayer]
    filter_shape: tuple[int, ...]
    code_bits: int
    keeps_weight: bool = False
    _on_bits: LayerPlanes | LookedUp | SignConv | None = None
    _kept: Tensor | None = None

    @torch.no_grad()
    def __init__(self, layer: BinaryLayer, no_kernel: str):
        """Take over all of a layer in evaluation mode but its weight; ``no_kernel``: why it is no packed layer.

        ValueError where the weight cannot become codes, or the layer uses it in a way of its own.
        """
        kind, bits = plain_class(layer), layer.scheme.weight_bits
        if kind is None:
            raise ValueError("it may use its weight")
        values, scale = layer.quantized_weight()
        codes, levels = _encode(values, bits)
        super().__init__()
        vars(self).update({**vars(layer), "_parameters": {**layer._parameters}, "_buffers": {**layer._buffers}})
        self.kind, self.filter_shape, self.code_bits = kind, tuple(values.shape), bits
        del self._parameters["weight"]
        self.register_buffer("weight_codes", codes)
        self.register_buffer("weight_levels", levels)
        self.register_buffer("weight_scale", None if scale is None else scale.clone())
        self.note = _computing(self) or f"{no_kernel}: {_EXPANDS}"
        if layer.unsettled:  # it is 0 and says nothing
            self.threshold = None

    @property
    def weight(self) -> Tensor:
        """:meth:`scaled_weight`, expanded anew."""
        rows, scale = self.filter_shape[0], self.weight_scale
        return self.from_filters(self._values(None if scale is None else scale.reshape(-1).expand(rows).contiguous()))

    def keep_weight(self) -> None:
        """Expand the weight once, and hold it: as fast as the float layer, and as large beside the codes."""
        self.keeps_weight = True
        self.note = self.note.replace(_EXPANDS, "keeps its weight expanded")

    def state_problems(self, state_dict: Mapping[str, Any], prefix: str) -> list[str]:
        """Why the state under ``prefix`` is not one of this layer; what is missing is no problem here."""
        return list(form_problems(self, state_dict, prefix))

    def compute(self, x: Tensor, output_scale: Tensor | None, *args) -> Tensor:
        found = self._binding(x) if output_scale is None and not args and _is_plain(x) else None
        if found is None:
            return super().compute(x, output_scale, *args)
        call, y = found
        call(x.data_ptr(), y.data_ptr())
        return y

    def _binding(self, x: Tensor) -> tuple[Call, Tensor] | None:
        """What computes all of the layer on inputs like ``x``, less the threshold, in one call, and an empty result."""
        held = self._bits()
        return None if isinstance(held, LookedUp) else held.bind(self, x, self.weight_scale)

    def product(self, x: Tensor, *args) -> tuple[Tensor, Tensor | None]:
        if args or not _is_plain(x):
            return super().product(x, *args)
        held = self._bits()
        y = None if isinstance(held, SignConv) else held.compute(self, x)
        return super().product(x) if y is None else (y, self.weight_scale)

    def scaled_product(self, x: Tensor, *args) -> Tensor:
        held = self._bits() if not args and _is_plain(x) else None
        y = held.compute(self, x, self.weight_scale) if isinstance(held, SignConv) else None
        return super().scaled_product(x, *args) if y is None else y

    def looks_up(self, x: Tensor) -> bool:
        if not has_lookup(self) or not _is_plain(x):
            return False
        held = self._bits()
        return isinstance(held, LookedUp) and held.takes(x)

    def _bits(self) -> LayerPlanes | LookedUp | SignConv:
        """What computes on the bits that there are now: they are moved, loaded, and lent by functional_call."""
        held = self._on_bits
        if held is None or held.codes is not self.weight_codes:
            if has_lookup(self):
                held = LookedUp(self, self.weight_codes, self.code_bits, self.weight_levels)
            elif has_sign_conv(self, self.weight_levels):
                held = SignConv(self, self.weight_codes)
            else:
                held = LayerPlanes(self, self.weight_codes)
            self._on_bits, self._kept = held, None
        return held

    def scaled_weight(self) -> Tensor:
        if ops.is_traced(self.weight_codes):
            return self.weight
        self._bits()  # forgets what was made of other codes
        if self._kept is None:
            weight = self.weight
            if not self.keeps_weight:
                return weight
            self._kept = weight
        return self._kept

    def quantized_weight(self) -> QuantizedWeight:
        return QuantizedWeight(self._values(), self.weight_scale)

    def _values(self, scale: Tensor | None = None) -> Tensor:
        """The values of the filters, times a factor a filter."""
        count = math.prod(self.filter_shape[1:])
        codes, levels = self.weight_codes, self.weight_levels
        if ops.is_traced(codes):
            values = packing.codes_to_levels(codes, count, self.code_bits, levels)
            values = values if scale is None else values * scale.unsqueeze(1)
        else:
            values = kernels.levels_of_codes(codes, count, self.code_bits, levels, scale)
        return values.reshape(self.filter_shape)

    def forward(self, input: Tensor, *args, **kwargs) -> Tensor:
        bound, alone = self.bound, not args and not kwargs
        if bound is not None and alone and bound.takes(input) and bound.of.are_of(self):
            return bound(input)
        ops.refuse_gradient(input)
        y = super().forward(input, *args, **kwargs)
        if alone and _is_plain(input) and not self.scheme.scales_output and self.comes_again(input):
            found = self._binding(input) if self.threshold is None else None
            self.bound = None if found is None else BoundCall(found[0], input, y, Parts.of(self))
        return y

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, self.padding_mode)
            padding = 0
        operation = (F.conv1d, F.conv2d, F.conv3d)[len(self.kernel_size) - 1]
        return operation(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    _output_padding = _ConvTransposeNd._output_padding

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        saved = state_dict.get(prefix + "threshold")
        if saved is not None and self.threshold is None and self.scheme.signed_input:
            start = torch.empty_like(saved, device=self.weight_levels.device)
            self.threshold = nn.Parameter(start, requires_grad=False)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._on_bits = self._kept = self.bound = None  # the codes are the same tensor with other values

    def _apply(self, fn, recurse=True):
        self._on_bits = self._kept = self.bound = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_on_bits": None, "_kept": None}

    def extra_repr(self) -> str:
        options = self.kind.float_class.extra_repr(self)
        return f"{self.kind.__name__}, {options}, bits={self.code_bits}, scheme={str(self.scheme)!r}"


def _is_plain(x: Tensor) -> bool:
    """Whether the kernels may take ``x``, which has memory of its own, and nothing is written down."""
    return x.dtype is torch.float32 and not ops.is_traced(x) and not is_transformed() and x.numel() > 0


def _encode(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(codes, levels) as an :class:`ExpandedLayer` stores filters. ValueError where they have more values.

    Levels that no value has go on in even steps, so that those of ternary weights are even, see :class:`EvenLevels`.
    """
    if bits > 8:
        raise ValueError("it has more values than bits")
    if bits == 1 and bool((values.abs() == 1).all()):
        levels, codes = values.new_tensor([-1.0, 1.0]), (values > 0).to(torch.uint8)
    else:
        levels, codes = values.unique(return_inverse=True)
        if len(levels) > 2**bits:
            raise ValueError("it has more values than bits")
    coded = (codes.flatten(1).unsqueeze(-1) >> torch.arange(bits, device=codes.device) & 1).bool().flatten(1)
    step = levels[-1] - levels[-2] if len(levels) > 1 else levels.new_ones(())
    more = levels[-1] + step * torch.arange(1, 2**bits - len(levels) + 1, device=levels.device)
    return packing.bits_to_bytes(coded), torch.cat([levels, more])


def _computing(layer: ExpandedLayer) -> str:
    """How it computes on bits; "" where it does not."""
    if has_lookup(layer):
        return f"looks sums up by its bits, of up to {most_rows(layer.code_bits)} rows"
    if has_sign_conv(layer, layer.weight_levels) and computes_here(layer.weight_codes):
        most = most_outputs(layer)
        return "looks sums up by its bits" + (f", of up to {most} outputs of a filter" if most else "")
    return "computes on bits, plane by plane" if has_planes(layer) else ""


def is_converted(model: nn.Module) -> bool:
    """Whether :func:`quantize.convert` has made ``model``, so that layers of it hold bits only."""
    return any(isinstance(module, (PackedLayer, ExpandedLayer)) for module in model.modules())
