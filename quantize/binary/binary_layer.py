"""Binary layers that train: latent weights, and where inputs are signs a threshold that finds its start."""

import functools
import itertools
import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..kept_bits import signs_as_bits
from ..scheme import QuantizedWeight, Scheme, get_scheme
from ..sharded import set_parameter
from .adapters import PLAIN, LayerAdapter
from .quantized_layer import QuantizedLayer
from .sign_product import Operation, operation, sign_product
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
    "drawn",
    "float_class",
    "float_keys",
)


# What a subclass of a binary layer may not replace without computing something else.
_FORWARD = (
    "forward",
    "compute",
    "apply_weight",
    "quantized_weight",
    "float_filters",
    "to_filters",
    "from_filters",
    "per_channel",
    "window_mean",
    "_conv_forward",
    "_output_padding",
)


class BinaryLayer(QuantizedLayer):
    """A quantized layer that trains: its scheme makes the low-bit weight of a latent one, ``weight``.

    Attributes:
        threshold_pending: the first training batch decides where the threshold starts.
        float_weights: the latent weight is used as it is, see :func:`use_float_weights`.
        drawn: the scheme has drawn weights in training, and nobody has estimated the statistics of its signs since.
        float_class: the class that :func:`unbinarize` gives back.
        float_keys: the parameters and buffers that the float layer has.
    """

    weight: Tensor
    threshold_pending: bool
    float_weights: bool
    progress_set: bool
    drawn: bool = False
    float_class: type[nn.Module]
    float_keys: frozenset[str]

    def __init__(self, *args, scheme: str | Scheme = "xnor", threshold: bool = False, **kwargs):
        """As the float layer's, and: ``threshold=True`` learns one threshold a channel, from 0."""
        super().__init__(*args, **kwargs)
        self.attach(get_scheme(scheme), PLAIN)
        if threshold:
            self.start_threshold(torch.zeros(self.input_channels))

    def attach(self, scheme: Scheme, adapter: LayerAdapter, output_size: tuple[int, ...] | None = None) -> None:
        """Give a float layer, whose class is a binary one now, what a binary layer has on top."""
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

    def float_filters(self) -> Tensor:
        """The filters that the float layer computes with: its latent weight, standardized where it does so."""
        return self.to_filters(self.adapter.weight(self))

    def quantized_weight(self) -> QuantizedWeight:
        filters = self.float_filters()
        return QuantizedWeight(filters) if self.float_weights else self.scheme.weight(filters, self)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if self.training:
            self._prepare_step(input)
        elif self.drawn and not torch.compiler.is_compiling():
            warn_statistics(str(self.scheme))
        of = self._operation(input) if output_size is None else None
        if of is None:
            return super().forward(input, output_size)
        return sign_product(input, self.scheme.scaled_weight(self.float_filters(), self), of)

    def _operation(self, x: Tensor) -> Operation | None:
        """What is computed on bits in a step of training or, without gradients, of evaluation; None: nothing."""
        if torch.compiler.is_compiling() or self.float_weights or computes_its_own_way(self):
            return None
        return operation(self, x) if self.training or not torch.is_grad_enabled() else None

    def compute(self, x: Tensor, output_scale: Tensor | None, *args) -> Tensor:
        """In training the scale goes into the weight: no second activation is kept for the backward pass."""
        if not self.training or output_scale is not None:
            return super().compute(x, output_scale, *args)
        filters = self.float_filters()
        weight = filters if self.float_weights else self.scheme.scaled_weight(filters, self)
        x = self.scheme.input(x, self)
        if not self.scheme.signed_input or torch.compiler.is_compiling():
            return self.apply_weight(x, self.from_filters(weight), self.bias, *args)
        with signs_as_bits(x):
            return self.apply_weight(x, self.from_filters(weight), self.bias, *args)

    # The threshold.

    @property
    def unsettled(self) -> bool:
        """Whether the threshold holds no information yet: it waits for the first training batch and is 0.

        One that waits may have values: ``torch.optim.swa_utils.AveragedModel`` copies parameters only.
        """
        if self.threshold is None or not self.threshold_pending:
            return False
        return self.threshold.is_meta or not bool(self.threshold.any())

    def start_threshold(self, values: Tensor, pending: bool = False) -> None:
        """Own a learned threshold that starts at ``values``, shape (input_channels,); frozen where the weight is."""
        values = values.to(self.weight.device, self.weight.dtype, copy=True)
        self.threshold = nn.Parameter(values, requires_grad=self.weight.requires_grad)
        self.threshold_pending = pending

    def _prepare_step(self, x: Tensor) -> None:
        """What comes before the forward pass of a training step: a threshold's first batch, warnings, notes."""
        if self.threshold is not None and self.threshold_pending:
            self._settle_threshold(x)
        if self.scheme.annealed and not self.progress_set and not torch.compiler.is_compiling():
            warn_no_progress(self.scheme.name)
        if self.scheme.random_in_training and not self.float_weights:
            self.drawn = True

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

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, *problems):
        if not {prefix + "weight_bits", prefix + "weight_codes"}.isdisjoint(state_dict):
            problems[-1].append(
                f"{prefix.removesuffix('.') or 'the layer'}: the state has bits, this layer a weight to train: it is "
                "that of a converted model, and loads into one that quantize.convert made"
            )
            return
        saved = state_dict.get(prefix + "threshold")
        if saved is not None:
            if self.threshold is None and self.scheme.signed_input:
                self.start_threshold(saved)
            self.threshold_pending = False
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *problems)
        missing_keys += [key for key in missing if key.removeprefix(prefix) in self.float_keys]

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.unsettled:
            del destination[prefix + "threshold"]

    def extra_repr(self) -> str:
        threshold = "" if self.threshold is None else ", threshold=" + ("pending" if self.threshold_pending else "True")
        return f"{super().extra_repr()}, scheme={str(self.scheme)!r}{threshold}"


def computes_its_own_way(layer: BinaryLayer) -> bool:
    """Whether this module or its class replaces a part of what binary layers compute."""
    kind: type = type(layer)
    return not vars(layer).keys().isdisjoint(_FORWARD) or _replaces(kind)


@functools.cache
def _replaces(kind: type) -> bool:
    own = itertools.takewhile(lambda base: base is not BinaryLayer, kind.__mro__)
    return any(name in vars(base) for base in own for name in _FORWARD)


@functools.cache  # once a process, not once a layer and step
def warn_no_progress(scheme_name: str) -> None:
    """Say that nobody anneals an annealed scheme."""
    warnings.warn(
        f"scheme {scheme_name!r} is annealed over training and nobody tells it the progress, which stays at 0: "
        "call quantize.set_progress(model, progress) once an epoch, from 0 to 1",
        stacklevel=2,
    )


@functools.cache
def warn_statistics(scheme: str) -> None:
    """Say that batch norm has the statistics of weights that do not ship."""
    warnings.warn(
        f"scheme {scheme!r} draws its weights in training and evaluates, and ships, their signs: batch norm's "
        "statistics are still those of the draws; call quantize.estimate_statistics(model, batches) before it",
        stacklevel=2,
    )
