"""A trained network as fixed-point hardware computes it, simulated in float.

Rounded are the image, the output of every convolution, batch norm and linear layer, and every parameter. Batch
norm is ``x scale + offset``. A binary layer computes with its +-1, which take no rounding, and its rounded scale.
What has no format of its own (activation functions, pooling, shortcuts) computes in float on rounded values.
"""

import copy
import dataclasses
import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import quantize
from quantize.binary.adapters import own_weight
from quantize.binary.layers import FLOAT_CLASSES, binarize, layer_adapter
from quantize.schemes.dorefa import FLOAT_BITS
from tools.fixed_arithmetic.fixed_formats import CONV, IMAGE, LINEAR, NORM, Format, Formats
from training.data import Normalization

KIND_OF = {_ConvNd: CONV, nn.Linear: LINEAR, _BatchNorm: NORM}
FLOAT_SCHEME = f"dorefa:w_bits={FLOAT_BITS},a_bits={FLOAT_BITS}"

# Parameters of a binary layer that it uses as they are; the others its scheme turns into low-bit values and scales.
USED_AS_THEY_ARE = ("bias", "threshold")


def decibels(signal: Tensor | float, noise: Tensor | float) -> float:
    """``10 log10(signal / noise)`` of two energies; infinite without noise."""
    return 10 * math.log10(float(signal) / float(noise)) if noise else math.inf


def energy(x: Tensor) -> Tensor:
    """The sum of the squares, shape ()."""
    return x.square().sum()


@dataclasses.dataclass
class LayerRecord:
    """What rounding did to the outputs of a layer, summed over the images so far.

    Attributes:
        name, kind, format: of the layer and its output.
        values: how many; ``clipped`` of them lay outside the format.
        signal: sum of the squares of what the layer computed; ``noise`` of what rounding and clipping changed.
        parameters: the lowest signal-to-noise ratio of its parameters in dB; None where it has none.
    """

    name: str
    kind: str
    format: Format
    values: int = 0
    clipped: Tensor | int = 0
    signal: Tensor | float = 0.0
    noise: Tensor | float = 0.0
    parameters: float | None = None

    def round(self, x: Tensor) -> Tensor:
        """``x`` in the layer's format."""
        rounded, clipped = self.format.round(x)
        self.values += x.numel()
        self.clipped += clipped
        self.signal += energy(x)
        self.noise += energy(rounded - x)
        return rounded

    @property
    def clipping_rate(self) -> float:
        """Share of the values."""
        return int(self.clipped) / self.values

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio of this rounding alone, in dB."""
        return decibels(self.signal, self.noise)


class StoredWeight:
    """The scheme of a layer whose weight is computed once.

    Attributes:
        scheme: the layer's own.
        stored: the weight that the layer computes with.
        output_format: of what multiplies the output beside it; None: it stays as it is.
    """

    annealed = False  # nothing is trained
    surrogate = None  # nor computed on bits
    input_bits = None  # hardware multiplies sums by the scale, of floats too

    def __init__(self, scheme: quantize.Scheme, stored: quantize.QuantizedWeight):
        self.scheme, self.stored = scheme, stored
        self.output_format: Format | None = None

    def weight(self, filters: Tensor, layer: nn.Module) -> quantize.QuantizedWeight:
        return self.stored

    def input(self, x: Tensor, layer: nn.Module) -> Tensor:
        return self.scheme.input(x, layer)

    def output_scale(self, x: Tensor, layer: nn.Module, *args) -> Tensor | None:
        scale = self.scheme.output_scale(x, layer, *args)
        return scale if scale is None or self.output_format is None else self.output_format.round(scale)[0]


@torch.no_grad()
def merge_batch_norm(norm: _BatchNorm) -> None:
    """Make ``norm`` compute ``x scale + offset``, in place, and these its weight and bias.

    ``scale = gamma / sqrt(var + eps)``, ``offset = beta - mean scale``. Raises ValueError without statistics.
    """
    if norm.running_var is None:
        raise ValueError("a batch norm without statistics (track_running_stats=False) has no scale to merge; train one")
    scale = (1 if norm.weight is None else norm.weight) / (norm.running_var + norm.eps).sqrt()
    offset = (0 if norm.bias is None else norm.bias) - norm.running_mean * scale
    norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(offset)
    norm.running_mean.zero_()
    norm.running_var.fill_(1)
    norm.eps = 0.0


@torch.no_grad()
def store_weight(layer: nn.Module) -> None:
    """Compute the weight of a binary layer once, in place, and that of a float layer that transforms its own."""
    if not isinstance(layer, quantize.BinaryLayer):
        adapter = layer_adapter(layer)
        if adapter is None or adapter.weight is own_weight:
            return
        binarize(layer, quantize.get_scheme(FLOAT_SCHEME))
    layer.scheme = StoredWeight(layer.scheme, layer.quantized_weight())


def merged_network(model: nn.Module, normalization: Normalization) -> nn.Sequential:
    """A copy in evaluation mode, from pixels in 0 to 1, whose normalization and batch norms are scales and offsets.

    The children are "image", "normalization" and "network". Raises ValueError as :func:`merge_batch_norm`.
    """
    first = nn.BatchNorm2d(len(normalization.mean), eps=0.0, affine=False)
    first.running_mean.copy_(torch.tensor(normalization.mean))
    first.running_var.copy_(torch.tensor(normalization.std).square())
    first.to(next(model.parameters()).device)
    parts = OrderedDict(image=nn.Identity(), normalization=first, network=copy.deepcopy(model))
    network = nn.Sequential(parts).eval()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            merge_batch_norm(module)
        elif isinstance(module, tuple(FLOAT_CLASSES.values())):
            store_weight(module)
    return network


@torch.no_grad()
def fixed_network(
    model: nn.Module, normalization: Normalization, formats: Formats
) -> tuple[nn.Sequential, list[LayerRecord]]:
    """As :func:`merged_network`, in fixed point, with a record a layer that fills as the network runs.

    Raises ValueError for a format of a tensor that the network does not have.
    """
    network = merged_network(model, normalization)
    records = {}
    for name, layer in network.named_modules():
        kind = IMAGE if name == "image" else next((k for c, k in KIND_OF.items() if isinstance(layer, c)), None)
        if kind is not None:
            name = own_name(name)
            records[name] = LayerRecord(name, kind, formats.of_output(name, kind))
            layer.register_forward_hook(rounding_hook(records[name]))
    ratios = round_parameters(network, formats)
    formats.check_names([*records, *ratios])
    for name, ratio in ratios.items():
        record = records.get(name.rpartition(".")[0])
        if record is not None:
            record.parameters = ratio if record.parameters is None else min(record.parameters, ratio)
    return network, list(records.values())


def own_name(name: str) -> str:
    """The name that the network itself has for what :func:`merged_network` calls ``name``."""
    return name.removeprefix("network.")


def rounding_hook(record: LayerRecord):
    """A forward hook that rounds a layer's output."""
    return lambda _layer, _inputs, output: record.round(output)


def round_parameters(network: nn.Module, formats: Formats) -> dict[str, float]:
    """Round all parameters, in place; the signal-to-noise ratio of each by name, in dB.

    A binary layer's are its bias and threshold, and what its scheme makes of the others: ``scale``, and
    ``weight`` where the scheme leaves the weights in float.
    """
    ratios = {}

    def rounded(name: str, values: Tensor) -> Tensor:
        name = own_name(name)
        result, _ = formats.of_parameter(name, values).round(values)
        ratios[name] = decibels(energy(values), energy(result - values))
        return result

    layers = {name: module for name, module in network.named_modules() if isinstance(module, quantize.BinaryLayer)}
    latent = {id(p) for layer in layers.values() for n, p in layer.named_parameters() if n not in USED_AS_THEY_ARE}
    for name, parameter in network.named_parameters():
        if id(parameter) not in latent:
            parameter.copy_(rounded(name, parameter))
    for name, layer in layers.items():
        values, scale = layer.scheme.stored
        if layer.scheme.scheme.weight_bits == FLOAT_BITS:
            values = rounded(f"{name}.weight", values)
        if scale is not None:
            scale = rounded(f"{name}.scale", scale)
        layer.scheme.stored = quantize.QuantizedWeight(values, scale)
        layer.scheme.output_format = formats.of_kind(NORM)
    return ratios
