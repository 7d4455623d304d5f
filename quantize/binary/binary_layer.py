"""What all binary layers share: a float layer's state, a scheme, and where its inputs are signs a threshold."""

import functools
import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..kept_bits import signs_as_bits
from ..scheme import QuantizedWeight, Scheme, get_scheme
from ..sharded import set_parameter
from .adapters import PLAIN, LayerAdapter
from .threshold import channel_sums, threshold_start

# The attributes that a binary layer has and its float layer has not, but for what a scheme learns.
STATE = (
    "scheme",
    "adapter",
    "threshold",
    "threshold_pending",
    "float_weights",
    "progress",
    "progress_set",
    "float_class",
    "float_keys",
)


class BinaryLayer(nn.Module):
    """What all binary layers share. Subclasses say how a weight is applied and laid out.

    Attributes:
        scheme: how weights and inputs become bits.
        threshold: None (the input is compared with 0), or a learned parameter, one a channel.
        threshold_pending: the first training batch decides where the threshold starts.
        float_weights: the latent weight is used as it is, see :func:`use_float_weights`.
        adapter: which weight and padding the float layer's own forward uses.
        float_class: the class that :func:`unbinarize` gives back.
        float_keys: the parameters and buffers that the float layer has.
    """

    trainable = True  # it has a latent weight
    scheme: Scheme
    threshold: nn.Parameter | None
    threshold_pending: bool
    float_weights: bool
    adapter: LayerAdapter
    float_class: type[nn.Module]
    float_keys: frozenset[str]

    def __init__(self, *args, scheme: str | Scheme = "xnor", threshold: bool = False, **kwargs):
        """As the float layer's, and: ``threshold=True`` learns one threshold a channel, from 0."""
        super().__init__(*args, **kwargs)
        self._attach(get_scheme(scheme), PLAIN)
        if threshold:
            self.start_threshold(torch.zeros(self.input_channels))

    def _attach(self, scheme: Scheme, adapter: LayerAdapter, output_size: tuple[int, ...] | None = None) -> None:
        self.float_keys = frozenset((*self._parameters, *self._buffers))
        self.scheme = scheme
        self.adapter = adapter
        self.threshold_pending = False
        self.float_weights = False
        self.register_parameter("threshold", None)
        if scheme.annealed:
            # A tensor, so that a compiled model is not compiled again for each value.
            self.register_buffer("progress", torch.zeros((), device=self.weight.device), persistent=False)
            self.progress_set = False
        scheme.attach(self, output_size)
        if not self.weight.requires_grad:  # what a scheme learns of a frozen layer is frozen too
            for name, parameter in self._parameters.items():
                if parameter is not None and name not in self.float_keys:
                    parameter.requires_grad_(False)

    @property
    def unsettled(self) -> bool:
        """Whether the threshold holds no information yet: it waits for the first training batch and is 0.

        One that waits may have values: ``torch.optim.swa_utils.AveragedModel`` copies parameters only.
        """
        return self.threshold_pending and (self.threshold.is_meta or not bool(self.threshold.any()))

    def start_threshold(self, values: Tensor, pending: bool = False) -> None:
        """Own a learned threshold that starts at ``values``, shape (input_channels,); frozen where the weight is."""
        values = values.to(self.weight.device, self.weight.dtype, copy=True)
        self.threshold = nn.Parameter(values, requires_grad=self.weight.requires_grad)
        self.threshold_pending = pending

    # How a float layer of this kind works.

    @property
    def channel_dim(self) -> int:
        return channel_dim(self)

    @property
    def input_channels(self) -> int:
        raise NotImplementedError

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args) -> Tensor:
        """The float layer's operation, with another weight and bias; ``args``: the further arguments of its call."""
        raise NotImplementedError

    def to_filters(self, weight: Tensor) -> Tensor:
        """``weight`` as filters (out_channels, in_channels / groups, *kernel)."""
        return weight

    def from_filters(self, filters: Tensor) -> Tensor:
        """The inverse of :meth:`to_filters`."""
        return filters

    def float_filters(self) -> Tensor:
        """The filters that the float layer computes with: its latent weight, standardized where it does so."""
        return self.to_filters(self.adapter.weight(self))

    def window_mean(self, magnitude: Tensor, *args) -> Tensor:
        """K of XNOR-Net: the mean over a group's channels and the kernel window, output-shaped; ``args`` as above."""
        raise NotImplementedError

    def per_channel(self, values: Tensor) -> Tensor:
        """View one value a channel (or one in all) so that it broadcasts over an activation."""
        return values.reshape((-1,) + (1,) * (-1 - self.channel_dim))

    # What a scheme makes of it.

    def quantized_weight(self) -> QuantizedWeight:
        """Low-bit values of the latent weight and their scale, both in filter layout."""
        filters = self.float_filters()
        return QuantizedWeight(filters) if self.float_weights else self.scheme.weight(filters, self)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Shapes and arguments are the float layer's; only transposed convolutions take an ``output_size``."""
        args = () if output_size is None else (output_size,)
        x = input if self.threshold is None else self._subtract_threshold(input)
        if self.scheme.annealed and self.training and not self.progress_set and not torch.compiler.is_compiling():
            warn_no_progress(self.scheme.name)
        output_scale = self.scheme.output_scale(x, self, *args)
        if self.training and output_scale is None:
            return self._train_forward(x, *args)
        values, scale = self.quantized_weight()
        x = self.scheme.input(x, self)
        if scale is None and output_scale is None and self.bias is None:
            return self.apply_weight(x, self.from_filters(values), None, *args)
        # Sums of +-1 are integers, exact in float32 up to 2^24. Scale and bias come afterwards: the packed
        # layer and the ONNX file give the same numbers, and a sum of zero stays zero.
        y = self.apply_weight(x, self.from_filters(values), None, *args)
        if scale is not None:
            y = y * self.per_channel(scale)
        if output_scale is not None:
            y = y * output_scale
        return y if self.bias is None else y + self.per_channel(self.bias)

    def _train_forward(self, x: Tensor, *args) -> Tensor:
        """The scale goes into the weight: no second activation is kept for the backward pass."""
        filters = self.float_filters()
        weight = filters if self.float_weights else self.scheme.scaled_weight(filters, self)
        x = self.scheme.input(x, self)
        if not self.scheme.signed_input or torch.compiler.is_compiling():
            return self.apply_weight(x, self.from_filters(weight), self.bias, *args)
        with signs_as_bits(x):
            return self.apply_weight(x, self.from_filters(weight), self.bias, *args)

    def _subtract_threshold(self, x: Tensor) -> Tensor:
        if self.threshold_pending and self.training:
            self._settle_threshold(x)
        return x - self.per_channel(self.threshold).to(x.dtype)

    @torch.no_grad()
    def _settle_threshold(self, x: Tensor) -> None:
        """First training batch: start at the mean of the channels whose sign is constant on all ranks together."""
        sums = channel_sums(x, self.channel_dim)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        elif not x.numel():
            return  # no sample (an expert without tokens): a later batch decides
        set_parameter(self, "threshold", threshold_start(sums))
        self.threshold_pending = False

    # State: what binarization adds is optional, so that float checkpoints load.

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        saved = state_dict.get(prefix + "threshold")
        if saved is not None:
            if self.threshold is None and self.scheme.signed_input:
                self.start_threshold(saved)
            self.threshold_pending = False
        found_missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, found_missing, unexpected, errors)
        missing += [key for key in found_missing if key.removeprefix(prefix) in self.float_keys]

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.unsettled:
            del destination[prefix + "threshold"]

    def extra_repr(self) -> str:
        threshold = "" if self.threshold is None else ", threshold=" + ("pending" if self.threshold_pending else "True")
        return f"{super().extra_repr()}, scheme={str(self.scheme)!r}{threshold}"


def channel_dim(layer: nn.Module) -> int:
    """The channel dimension of a float or binary layer's input, counted from the end."""
    return -1 - len(getattr(layer, "kernel_size", ()))


@functools.cache  # once a process, not once a layer and step
def warn_no_progress(scheme_name: str) -> None:
    """Say that nobody anneals an annealed scheme."""
    warnings.warn(
        f"scheme {scheme_name!r} is annealed over training and nobody tells it the progress, which stays at 0: "
        "call quantize.set_progress(model, progress) once an epoch, from 0 to 1",
        stacklevel=2,
    )
