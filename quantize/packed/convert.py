"""convert: a trained binary model as inference modules that hold one bit a weight."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import packing
from ..binary.conv2d_form import conv2d_form
from ..binary.forms import make_plain
from ..binary.layers import BinaryConv1d, BinaryConv2d, BinaryLayer, BinaryLinear, plain_class
from ..binary.quantized_layer import channel_dim
from ..calling import copy_model, evaluation_copy, float_inputs, keeps_random_state
from . import fold
from .check import agreeing
from .codes.expanded import ExpandedLayer, is_converted
from .float_conv import FloatConv2d, is_few_channels
from .flow import Flow, Link, chain, trace_flow
from .int8.calibration import calibration_of, quantize_float_layers
from .layers import PackedConv1d, PackedConv2d, PackedLayer, PackedLinear
from .pool import PackedMaxPool2d, float_pool
from .replace import become, shorten, take_over_hooks
from .state import refuse_other_states

_PACKED = {BinaryConv2d: PackedConv2d, BinaryConv1d: PackedConv1d, BinaryLinear: PackedLinear}


@keeps_random_state
@torch.inference_mode(False)  # what is made in it cannot be loaded into
@torch.no_grad()
def convert(
    model: nn.Module,
    example_input: Any,
    check: bool = True,
    keep_expanded: bool = False,
    float_layers: str = "float",
    calibration: Tensor | None = None,
    labels: Tensor | None = None,
    max_drop: float | None = None,
) -> nn.Module:
    """A copy of a prepared model for inference: binary layers hold one bit a weight and compute with bits.

    A layer with 1-bit weights and signs as input becomes a :class:`PackedConv2d`, :class:`PackedConv1d` or
    :class:`PackedLinear`, any other that a scheme gives few values (several bits, float inputs, 3-D and transposed
    convolutions) stores bits, and computes on them or expands them when it runs. Between layers, where nothing
    else reads what passes from module to module:

    - batch norm, ReLU and their kind before a sign become a threshold and a flip, exact to the last bit;
    - batch norm and ReLU after a packed layer become its scale and bias, and its end;
    - a channel shuffle becomes the order in which the layer before it writes its channels;
    - bits go from one packed layer to the next where only these, or max pooling, stand between, and from a first
      convolution of floats where a threshold does.

    :func:`conversion_report` says what became of each layer. The result is in evaluation mode, has no
    gradients, and is saved and loaded by its state_dict: convert a model of the same architecture, then load.

    Args:
        model: from :func:`quantize.prepare`, trained; it is left as it was.
        example_input: what the model is called with; floats are taken as float32. The model has to take the same
            way through its code with every input: what one run shows of it is what is fused.
        check: compare the result with ``model``, on ``example_input`` and on another input of its shapes, and take
            back fusions that change the answers; :func:`conversion_report` names them.
        keep_expanded: layers that expand their weight at each call do so at the first, and hold it in memory: as fast
            as float, and as large, beside the bits. What is saved stays small.
        float_layers: "float", or "int8": convolutions and linear layers that stayed float become :class:`Int8Conv2d`
            and :class:`Int8Linear`, calibrated on the images of ``calibration``; the report says what that changes.
        calibration: floats (N, ...), such as the network takes; a few hundred images of the training set, say.
        labels: whole numbers (N,): the drop is that of top-1 then, else the share of predictions that change.
        max_drop: points of a percent that 8 bits may cost on ``calibration``; 0.1 where it is None.

    Raises ValueError where no layer is binary, the model is converted already, does not run on ``example_input``, or
    cannot be copied, and where 8 bits cost more than ``max_drop``; ConversionMismatch where the result computes
    something else though nothing is fused.
    """
    model = make_plain(evaluation_copy(model)).requires_grad_(False)
    if not any(isinstance(module, BinaryLayer) for module in model.modules()):
        if is_converted(model):
            raise ValueError("nothing to convert: the model is a converted one already, and holds bits only")
        raise ValueError("nothing to convert: no layer of the model is binary; quantize.prepare makes them so")
    example_input = float_inputs(example_input)
    calibrated_on = calibration_of(float_layers, calibration, labels, max_drop, example_input)
    flow = _flow_of(model, example_input)
    kept: Sequence[Link] = flow.links
    packed = _packed(model, flow, kept)
    if check:
        packed, kept = agreeing(model, packed, flow.links, lambda links: _packed(model, flow, links), example_input)
    _note_taken_back(model, packed, flow, kept)
    for module in packed.modules() if keep_expanded else ():
        if isinstance(module, ExpandedLayer):
            module.keep_weight()
    _order_bits(packed, flow.moved(_places(model, packed), ()))
    if calibrated_on is not None:
        quantize_float_layers(packed, calibrated_on)
    packed.register_load_state_dict_pre_hook(refuse_other_states)
    return packed


def _places(model: nn.Module, copied: nn.Module) -> dict[nn.Module, nn.Module]:
    """Module of ``model`` -> its place in a copy."""
    return dict(zip(model.modules(), copied.modules(), strict=True))


def _order_bits(packed: nn.Module, flow: Flow) -> None:
    """Put the bits of layers in the order of their kernels, as their first run would, which here could leave traces."""
    for module in packed.modules():
        shape = flow.input_shape.get(module)
        if isinstance(module, PackedLayer) and shape is not None and 0 not in shape:
            module.prepare(module.size_of(shape), module.weights.device)


def _flow_of(model: nn.Module, example_input: Any) -> Flow:
    """What a run of a copy shows, told of ``model``: a run may leave traces on what it runs."""
    ran = copy_model(model)
    flow = trace_flow(ran, example_input, _is_watched)
    return flow.moved(_places(ran, model), flow.links)


def _packed(model: nn.Module, flow: Flow, links: Iterable[Link]) -> nn.Module:
    """A copy of ``model`` whose binary layers are packed, fused with their neighbours through ``links`` alone."""
    own = copy_model(model)
    converter = _Converter(own, flow.moved(_places(model, own), links))
    for layer in converter.packed:
        converter.fuse_input(layer)
    for layer in converter.packed:
        converter.fuse_output(layer)
    for layer in converter.packed:
        converter.choose_layout(layer)
    return converter.replace(own)


def _note_taken_back(model: nn.Module, packed: nn.Module, flow: Flow, kept: Sequence[Link]) -> None:
    """Write down at the packed layer next to each link that is not in ``kept`` that it was not fused."""
    names = {module: name for name, module in model.named_modules()}
    for first, second in (link for link in flow.links if link not in kept):
        modules = [first, *chain(flow.before, first), second, *chain(flow.after, second)]
        layers = (packed.get_submodule(names[module]) for module in modules)
        layer = next((layer for layer in layers if isinstance(layer, PackedLayer)), None)
        if layer is not None:
            note = f"{names[first]} and {names[second]} are not fused: the answers would differ"
            _fold(layer, note="; ".join(filter(None, (layer.folding.note, note))))


def _is_watched(module: nn.Module) -> bool:
    parts = (fold.is_monotone, fold.is_pooling, fold.may_shuffle, is_few_channels)
    return isinstance(module, BinaryLayer) or any(part(module) for part in parts)


def pack_layer(layer: BinaryLayer) -> PackedLayer:
    """The packed layer of a binary one in evaluation mode. ValueError where there is no kernel for it."""
    kind, scheme = plain_class(layer), layer.scheme
    if kind is None:
        raise ValueError(f"{type(layer).__name__} has a forward of its own")
    if kind not in _PACKED:
        raise ValueError("there is no kernel of 3-D and transposed convolutions")
    if not scheme.signed_input or scheme.weight_bits != 1 or layer.float_weights:
        raise ValueError(f"scheme {str(scheme)!r} has no signs on both sides")
    if not scheme.window_scale and scheme.output_scale(_smallest_input(layer), layer) is not None:
        raise ValueError(f"scheme {str(scheme)!r} scales the output in a way of its own")
    values, scale = layer.quantized_weight()
    if not bool((values.abs() == 1).all()):
        raise ValueError(f"scheme {str(scheme)!r} has weights other than +-1")
    values = values.reshape(*values.shape[:2], *[1] * (4 - values.dim()), *values.shape[2:])
    geometry, options = conv2d_form(layer)
    return _PACKED[kind](
        geometry,
        packing.pack_weights(values),
        None if scale is None else scale.reshape(-1).expand(len(values)).clone(),
        None if layer.bias is None else layer.bias.detach().clone(),
        None if layer.threshold is None else layer.threshold.detach().clone(),
        window_scale=scheme.window_scale,
        scheme=str(scheme),
        **options,
    )


def _smallest_input(layer: BinaryLayer) -> Tensor:
    """Zeros that the layer takes."""
    spans = [
        d * (k - 1) + 1 + max(layer._reversed_padding_repeated_twice)  # as much as a padding that reflects needs
        for k, d in zip(getattr(layer, "kernel_size", ()), getattr(layer, "dilation", ()), strict=True)
    ]
    return layer.weight.new_zeros((1, layer.input_channels, *spans))


class _Converter:
    """Packs the layers of a model, a copy, or has them expand their bits, and fuses what stands between packed ones.

    Attributes:
        packed: binary layer -> its packed layer.
        replaced: another module -> what takes its place.
        readers: convolution of floats -> the binary layer that reads no more than signs of it.
    """

    def __init__(self, model: nn.Module, flow: Flow):
        self.flow = flow
        self.names = {module: name for name, module in model.named_modules()}
        self.packed: dict[nn.Module, PackedLayer] = {}
        self.replaced: dict[nn.Module, nn.Module] = {}
        self.readers: dict[nn.Module, nn.Module] = {}
        for layer in model.modules():
            if isinstance(layer, BinaryLayer):
                self._pack_or_expand(layer)
        sized = [(module, shape) for module, shape in flow.input_shape.items() if fold.may_shuffle(module)]
        groups = {module: fold.shuffle_groups(module, shape) for module, shape in sized}
        self.shuffles = {module: count for module, count in groups.items() if count is not None}

    def _pack_or_expand(self, layer: BinaryLayer) -> None:
        try:
            self.packed[layer] = pack_layer(layer)
        except ValueError as no_kernel:
            try:
                self.replaced[layer] = ExpandedLayer(layer, str(no_kernel))
            except ValueError as no_codes:
                layer.note = f"{no_kernel}; {no_codes}: left as it was"

    def fuse_input(self, layer: nn.Module) -> None:
        """Make what stands before a packed layer its threshold; where it is a packed layer, hand on its bits."""
        packed = self.packed[layer]
        if packed.window_scale:
            _fold(packed, note="its scale needs the floats that go in")
            return
        before = self._upstream(layer)
        if before and before[-1] in self.packed:
            self._hand_on_bits(before[-1], before[-2::-1], layer)
            return
        steps: list[nn.Module] = []
        for module in before:
            if not fold.is_monotone(module):
                break
            steps.insert(0, module)
        if steps:
            packed.threshold, packed.flip = self._before(steps, *self._threshold(packed))
            self._absorb(packed, steps)
        source = self.flow.before.get(steps[0] if steps else layer)
        if source is not None and is_few_channels(source) and type(packed) is PackedConv2d and _pads_zeros(packed):
            self.readers[source] = layer

    def _upstream(self, layer: nn.Module) -> list[nn.Module]:
        """What stands before a layer, the nearest first, as far as bits could pass it, and the packed layer there."""
        found: list[nn.Module] = []
        for module in chain(self.flow.before, layer):
            if module in self.packed:
                return [*found, module] if self._takes_bits(layer, module, found) else found
            if not self._passes(module, layer):
                break
            found.append(module)
        return found

    def _passes(self, module: nn.Module, layer: nn.Module) -> bool:
        """Whether it does to bits, or to a threshold, what it does to floats."""
        if not (fold.is_batch_norm(module) or fold.is_max_pool(module) or module in self.shuffles):
            return fold.is_monotone(module)
        dims = len(self.flow.input_shape[module])  # where they are the layer's, so are the channels
        return dims == max(2, 1 - channel_dim(layer)) and (dims == 4 or not fold.is_max_pool(module))

    def _takes_bits(self, layer: nn.Module, source: nn.Module, between: Sequence[nn.Module]) -> bool:
        target = self.packed[layer]
        shuffles = sum(module in self.shuffles for module in between)
        same_kind = type(self.packed[source]) is type(target)
        return same_kind and _pads_zeros(target) and shuffles <= 1

    def _hand_on_bits(self, source: nn.Module, between: Sequence[nn.Module], layer: nn.Module) -> None:
        """Let ``source`` end in the bits that ``layer`` starts with; ``between`` is what stands there, in order."""
        first, target = self.packed[source], self.packed[layer]
        threshold, flip = self._threshold(target)
        groups = 1
        steps: list[nn.Module] = []
        for module in reversed(between):
            if fold.is_monotone(module):
                steps.insert(0, module)
                continue
            threshold, flip = self._before(steps, threshold, flip)
            steps = []
            if module in self.shuffles:
                groups = self.shuffles[module]
                threshold, flip = (fold.unshuffle_values(values, groups) for values in (threshold, flip))
            else:  # the bits that a pooling gets are in their last order, though the shuffle may come after it
                self.replaced[module] = PackedMaxPool2d(cast(nn.MaxPool2d, module), fold.shuffle_values(flip, groups))
        first.output_threshold, first.output_flip = self._before(steps, threshold, flip)
        target.threshold = target.flip = None
        _fold(first, output_bits=True, shuffle=groups)
        _fold(target, input_bits=True)
        self._absorb(first, between)

    def fuse_output(self, layer: nn.Module) -> None:
        """Make what is left behind a packed layer its scale, bias, ReLU, and the order of its channels."""
        packed = self.packed[layer]
        if packed.folding.output_bits:
            return
        at_once = True  # nothing that stays where it is has come yet
        for module in chain(self.flow.after, layer):
            if module in self.replaced or module in self.packed:
                break
            if module in self.shuffles:
                if self._passes(module, layer):
                    _fold(packed, shuffle=self.shuffles[module])
                    self._absorb(packed, [module])
                break
            if at_once and fold.is_batch_norm(module) and not packed.folding.relu and self._passes(module, layer):
                _scale_by(packed, *fold.affine_of(module))
                self._absorb(packed, [module])
            elif at_once and fold.is_relu(module):
                _fold(packed, relu=True)
                self._absorb(packed, [module])
            elif fold.keeps_channels(module, len(self.flow.input_shape[module])):
                at_once = False
            else:
                break

    def choose_layout(self, layer: nn.Module) -> None:
        """Let the floats between two packed convolutions lie as a pooling there is fastest, channels innermost.

        A window is then a few vectors, not a few numbers of many rows. Who else reads an output gets the order that it
        had: a model's own code may ask for it, as ``view`` does. Where the input is floats, whoever calls the model has
        chosen one.
        """
        packed = self.packed[layer]
        own = packed.folding.input_bits or packed.folding.layout is not None
        if packed.folding.output_bits or not own or type(packed) is not PackedConv2d:
            return
        pooled = False
        for module in chain(self.flow.after, layer):
            reader = self.packed.get(module)
            if reader is not None:
                if pooled and type(reader) is PackedConv2d:
                    _fold(packed, layout="nhwc")
                    if reader.folding.layout is None:
                        _fold(reader, layout="nchw")
                return
            if not isinstance(self.replaced.get(module), nn.Identity):
                if not fold.is_pooling(module, [4]):
                    return
                pooled = True

    def _before(self, steps: Sequence[nn.Module], threshold: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
        """The threshold before ``steps`` that stands for this one after them."""
        if not steps:
            return threshold.contiguous(), flip.contiguous()
        return fold.threshold_before(steps, self.flow.input_shape[steps[0]], threshold, flip)

    def _absorb(self, packed: PackedLayer, modules: Sequence[nn.Module]) -> None:
        _fold(packed, absorbed=packed.folding.absorbed + tuple(self.names[module] for module in modules))
        for module in modules:
            self.replaced.setdefault(module, nn.Identity())

    def replace(self, model: nn.Module) -> nn.Module:
        """The model, whose old modules become the new ones in place: a list of its own that holds them does too."""
        for old, packed in self.packed.items():
            take_over_hooks(packed, old)
        for old, new in {**self.packed, **self.replaced}.items():
            become(old, new)
        for module in model.modules():
            module.__class__ = float_pool(module) or (FloatConv2d if is_few_channels(module) else type(module))
        for source, reader in self.readers.items():
            cast(FloatConv2d, source).readers = (reader,)
        shorten(model)
        return model.eval()

    def _threshold(self, packed: PackedLayer) -> tuple[Tensor, Tensor]:
        none = torch.zeros(packed.geometry.channels, dtype=torch.float32, device=packed.weights.device)
        return none if packed.threshold is None else packed.threshold, none.bool()


def _pads_zeros(packed: PackedLayer) -> bool:
    """Whether its input is padded as bits are: by taps that count nothing."""
    return packed.padding_mode == "zeros" and packed.pad is None


def _fold(packed: PackedLayer, **changes: Any) -> None:
    packed.folding = dataclasses.replace(packed.folding, **changes)


def _scale_by(packed: PackedLayer, a: Tensor, b: Tensor) -> None:
    """Follow a packed layer by ``a y + b`` a channel."""
    scale = torch.ones_like(a) if packed.scale is None else packed.scale.double()
    bias = torch.zeros_like(b) if packed.bias is None else packed.bias.double()
    packed.scale, packed.bias = (scale * a).float(), (bias * a + b).float()
