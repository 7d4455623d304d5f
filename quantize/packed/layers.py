"""Packed layers: inference modules that hold one bit a weight and compute with :mod:`quantize.kernels`.

:func:`quantize.convert` makes them. A packed layer computes ``relu((signs * bits) scale [K] + bias)``; the signs
are those of ``input >= threshold`` a channel, or of ``<=`` where flipped. Input and output are floats, or the
bits of another packed layer.
"""

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import kernels, packing
from ..binary.adapters import added_zeros
from ..kernels import Binarize, ConvGeometry, Epilogue, Layout, Output, PreparedWeights, cpu, reference
from ..packing import Bits
from . import ops
from .ops import BoundCall, BoundModule
from .state import STATE_VERSION, bits_problems, encode_header, form_problems, header_problems

_preparing = threading.Lock()  # of several threads that call a layer first, one puts its bits in order


@dataclasses.dataclass(frozen=True)
class Folding:
    """What a packed layer computes besides its convolution, and what convert made of its neighbours.

    Attributes:
        input_bits: the input is the bits of another packed layer, int64 words.
        output_bits: so is the output.
        relu: the output's negative values become 0.
        shuffle: the output's channels are interleaved by so many groups (1: they are not).
        layout: memory order of an output of floats; None: that of the input, "nchw" where it is bits.
        absorbed: names of the modules that this layer computes too.
        note: what could not be done, and why.
    """

    input_bits: bool = False
    output_bits: bool = False
    relu: bool = False
    shuffle: int = 1
    layout: Layout | None = None
    absorbed: tuple[str, ...] = ()
    note: str = ""


class Operands(NamedTuple):
    """What the kernels take of a layer: its buffers and its folding, in the forms in which they are used."""

    weights: PreparedWeights
    binarize: Binarize
    epilogue: Epilogue
    folding: Folding

    def are_of(self, buffers: Mapping[str, Tensor | None], folding: Folding) -> bool:
        """Whether a layer with these buffers has these operands: the same tensors, not equal ones."""
        binarize, epilogue = self.binarize, self.epilogue
        return (
            buffers["weights"] is self.weights.data
            and buffers["scale"] is epilogue.scale
            and buffers["bias"] is epilogue.bias
            and buffers["threshold"] is binarize.threshold
            and buffers["flip"] is binarize.flip
            and buffers["output_threshold"] is epilogue.threshold
            and buffers["output_flip"] is epilogue.flip
            and folding is self.folding
        )


class PackedLayer(BoundModule):
    """What all packed layers share.

    Args:
        geometry: of the 2-D convolution that the layer is; ``padding`` with zeros only.
        weight_bits: dense bits, uint8 (out, bytes), see :mod:`quantize.packing`.
        scale: (out,) or None for 1.
        bias: (out,) or None.
        threshold: (in,) or None for 0.
        window_scale: multiply by K of XNOR-Net, :meth:`window_mean`.
        padding_mode: of ``torch.nn.functional.pad``; other than "zeros" pads the input by ``pads``.
        pad: function that pads an image with zeros by its size, before ``geometry`` pads it, or None.
        scheme: that the layer was trained with, for the record.
    """

    dims = 2  # spatial dimensions of the input
    scale: Tensor | None
    bias: Tensor | None
    threshold: Tensor | None
    flip: Tensor | None
    output_threshold: Tensor | None
    output_flip: Tensor | None
    weights: Tensor
    prepared: PreparedWeights | None = None  # the weights, once they are in the order of a kernel
    _held: Operands | None = None

    def __init__(
        self,
        geometry: ConvGeometry,
        weight_bits: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        threshold: Tensor | None = None,
        window_scale: bool = False,
        padding_mode: str = "zeros",
        pads: tuple[int, ...] = (),
        pad: Callable[[Tensor], Tensor] | None = None,
        scheme: str = "",
    ):
        super().__init__()
        packing.check_weights(weight_bits, geometry.filters)
        self.geometry, self.window_scale = geometry, window_scale
        self.padding_mode, self.pads, self.pad = padding_mode, tuple(pads), pad
        self.folding = Folding()
        self.scheme = scheme
        # Dense bits, or in the order that a kernel reads them: one copy. state_dict holds them dense.
        self.register_buffer("weights", weight_bits, persistent=False)
        for name, values in (("scale", scale), ("bias", bias), ("threshold", threshold)):
            self.register_buffer(name, values)
        for name in ("flip", "output_threshold", "output_flip"):
            self.register_buffer(name, None)

    # What users of the float layer read.

    @property
    def weight(self) -> Tensor:
        """The weight that the layer computes with, its scale included, in the float layer's shape: expanded anew."""
        filters = packing.unpack_weights(self.dense_weights(), self.geometry.filters)
        if self.scale is not None:
            filters = filters * self.scale.view(-1, 1, 1, 1)
        return filters.reshape(*filters.shape[:2], *self.kernel_size)

    @property
    def in_channels(self) -> int:
        return self.geometry.channels

    @property
    def out_channels(self) -> int:
        return self.geometry.out_channels

    @property
    def groups(self) -> int:
        return self.geometry.groups

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.geometry.kernel[2 - self.dims :]

    @property
    def stride(self) -> tuple[int, ...]:
        return self.geometry.stride[2 - self.dims :]

    @property
    def dilation(self) -> tuple[int, ...]:
        return self.geometry.dilation[2 - self.dims :]

    @property
    def padding(self) -> tuple[int, ...] | str:
        """As given to the float layer; "same" where the two sides differ."""
        sides: list[tuple[int, ...]] = [self.geometry.padding[:2], self.geometry.padding[2:]]
        if self.padding_mode != "zeros":
            sides = [(0, *self.pads[side - 2 :: -2])[-2:] for side in (0, 1)]
        before, after = sides
        return before[2 - self.dims :] if before == after else "same"

    # The layer as a convolution of images.

    def to_image(self, x: Tensor) -> Tensor:
        """The input as (N, C, H, W), or as words (N, H, W, words)."""
        return x

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        """The output of the convolution in the shape that belongs to the input ``x``."""
        return y

    def forward(self, input: Tensor | Bits) -> Tensor | Bits:
        """As the float layer; packed layers have no gradient."""
        x, bound = input.words if isinstance(input, Bits) else input, self.bound
        if bound is not None and bound.takes(x) and bound.of.are_of(self._buffers, self.folding):
            y = bound(x)
            return Bits(y) if self.folding.output_bits else y
        self._check(x, isinstance(input, Bits))
        image, geometry = self._padded(self.to_image(x))
        traced = ops.is_traced(image)
        if self.prepared is None and image.numel():
            self._refuse_trace(image)
            self.prepare(self.image_size(image), image.device)
        scale = self.window_mean(image, geometry, self.threshold) if self.window_scale else None
        y = self.from_image(self.convolve(image, geometry, scale), x)
        if not traced and self.comes_again(x):
            self.bound = self._bind(x, image, y)
        return Bits(y) if self.folding.output_bits and not traced else y

    def _bind(self, x: Tensor, image: Tensor, y: Tensor) -> BoundCall | None:
        """The call that makes ``y`` of ``x``, whose image is ``image``; None where more than the library is needed."""
        held = self._held
        if held is None or self.window_scale or image.data_ptr() != x.data_ptr() or not image.numel():
            return None
        (backend, weights), binarize, epilogue, folding = held
        if backend is not cpu:
            return None
        layout = folding.layout or ops.layout_of(image)
        if image.dtype is torch.int64:
            call, _ = cpu.bind_conv2d(image, weights, self.geometry, epilogue, layout)
        else:
            call, _ = cpu.bind_conv2d_float(image, weights, self.geometry, epilogue, layout, binarize)
        return BoundCall(call, x, y, held)

    def convolve(self, image: Tensor, geometry: ConvGeometry, input_scale: Tensor | None) -> Tensor:
        """The convolution and all that the layer computes after it, of an image."""
        traced, held = ops.is_traced(image), self._held
        if traced:  # and what stands in for the buffers meanwhile is not held
            held = self._operands()
        elif held is None or not held.are_of(self._buffers, self.folding):
            with _preparing:  # the weights and who reads them are changed together
                held = self._held = self._operands()
        weights, binarize, epilogue, folding = held
        if input_scale is not None:
            epilogue = epilogue._replace(input_scale=input_scale)
        if traced:
            return ops.convolve_traced(image, weights, geometry, binarize, epilogue)
        return ops.convolve(image, weights, geometry, binarize, epilogue, folding.layout)

    def _operands(self) -> Operands:
        """Of the buffers that there are now: they are moved, loaded, set, and lent by functional_call."""
        b, fold = self._buffers, self.folding
        backend = reference if self.prepared is None else self.prepared.backend
        output: Output = "bits" if fold.output_bits else "float32"
        thresholds = b["output_threshold"], b["output_flip"]
        return Operands(
            PreparedWeights(backend, cast(Tensor, b["weights"])),
            Binarize(b["threshold"], b["flip"]),
            Epilogue(b["scale"], b["bias"], None, fold.relu, *thresholds, fold.shuffle, output),
            fold,
        )

    def _check(self, x: Tensor, handed: bool) -> None:
        bits = self.folding.input_bits or handed  # by a layer of floats, which has compared them with the threshold
        if x.dtype is (torch.int64 if bits else torch.float32):
            return
        if bits or not x.is_cuda or x.dtype not in (torch.bfloat16, torch.float16):
            kind = "the bits of the packed layer before it" if bits else "float32"
            raise TypeError(
                f"{type(self).__name__} takes {kind}, got {str(x.dtype).removeprefix('torch.')}; "
                "convert the model under the dtype that it runs with, float32"
            )

    def _padded(self, image: Tensor) -> tuple[Tensor, ConvGeometry]:
        """The image and the geometry of what is left to pad with zeros."""
        if self.padding_mode != "zeros":
            image = self.pad_with_values(image)
        return regular(image), self.geometry if self.pad is None else self.padded_geometry(self.image_size(image))

    def padded_geometry(self, size: tuple[int, int]) -> ConvGeometry:
        """The geometry with the zeros that ``pad`` adds to an image of this height and width."""
        extra = added_zeros(self.pad, size)
        top, left, bottom, right = (a + b for a, b in zip(self.geometry.padding, extra, strict=True))
        return dataclasses.replace(self.geometry, padding=(top, left, bottom, right))

    def pad_with_values(self, image: Tensor) -> Tensor:
        """The image with ``pads`` of its own values at its sides."""
        return F.pad(image, self.pads, self.padding_mode)

    def image_size(self, image: Tensor) -> tuple[int, int]:
        """Height and width of what :meth:`to_image` returned."""
        height, width = image.shape[1:3] if image.dtype is torch.int64 else image.shape[2:]
        return height, width

    def size_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the image of a float input of this shape."""
        return (shape[-2], shape[-1])

    def window_mean(self, image: Tensor, geometry: ConvGeometry, threshold: Tensor | None) -> Tensor:
        """K of XNOR-Net: mean of ``|x|`` over a group's channels and the kernel window, (N, groups, H', W')."""
        image = image.float()
        magnitude = image if threshold is None else image - threshold.view(1, -1, 1, 1)
        means = magnitude.abs().unflatten(1, (geometry.groups, -1)).mean(2)
        top, left, bottom, right = geometry.padding
        box = means.new_full((geometry.groups, 1, *geometry.kernel), 1 / (geometry.kernel[0] * geometry.kernel[1]))
        padded = F.pad(means, (left, right, top, bottom))
        return F.conv2d(padded, box, None, geometry.stride, 0, geometry.dilation, geometry.groups).contiguous()

    # Weights.

    def prepare(self, size: tuple[int, int], device: torch.device) -> None:
        """Put the bits in the order of the kernel that is the fastest for images of this height and width."""
        with _preparing:
            if self.prepared is None and device.type in ("cpu", "cuda"):
                prepared = kernels.prepare_weights(self.weights, self.geometry, size=size)
                self._hold(prepared.data, prepared)

    def _hold(self, weights: Tensor, prepared: kernels.PreparedWeights | None) -> None:
        """Take bits, in the order of ``prepared`` or dense.

        Past the hooks on new buffers: torch before 2.14 leaves the one of an export that failed behind.
        """
        self._buffers["weights"], self.prepared = weights, prepared

    def _refuse_trace(self, image: Tensor) -> None:
        if ops.is_traced(image):
            raise RuntimeError(
                f"a {type(self).__name__} cannot be exported or compiled before it ran: which kernel its bits are put "
                "in order for is found then; call the model once after it was moved or loaded"
            )

    def dense_weights(self) -> Tensor:
        """The weights as in the file: uint8 (out, bytes)."""
        with _preparing:
            prepared, weights = self.prepared, self.weights
        return weights if prepared is None else prepared.backend.dense_weights(weights, self.geometry)

    def stored_bytes(self) -> int:
        """Bytes of all numbers that :meth:`state_dict` holds of this layer; its header is about 250 more."""
        persistent = (b for name, b in self.named_buffers(recurse=False) if name != "weights")
        out, *_ = filters = self.geometry.filters
        return out * packing.filter_bytes(filters) + sum(b.numel() * b.element_size() for b in persistent)

    def _forget_preparation(self) -> None:
        self._hold(self.dense_weights(), None)

    def _apply(self, fn, recurse=True):
        self._forget_preparation()  # another device has another order
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        buffers = {**self._buffers, "weights": self.dense_weights()}
        return {**super().__getstate__(), "_buffers": buffers, "prepared": None, "_held": None}

    # state_dict: the dense bits, the float buffers, and a header.

    def header(self) -> dict[str, Any]:
        """What the bits belong to."""
        fold = dataclasses.asdict(self.folding)
        header = {"version": STATE_VERSION, "type": type(self).__name__, **dataclasses.asdict(self.geometry)}
        header |= {key: fold[key] for key in ("input_bits", "output_bits", "relu", "shuffle")}
        return {**header, "window_scale": self.window_scale, "padding_mode": self.padding_mode}

    def get_extra_state(self) -> Tensor:
        return encode_header(self.header())

    def set_extra_state(self, state: Tensor) -> None:
        """The header was compared before anything was loaded."""

    def state_problems(self, state_dict: Mapping[str, Any], prefix: str) -> list[str]:
        """Why the state under ``prefix`` is not one of this layer; what is missing is no problem here."""
        return [
            *form_problems(self, state_dict, prefix),
            *header_problems(state_dict.get(prefix + "_extra_state"), self.header()),
            *bits_problems(state_dict.get(prefix + "weight_bits"), self.geometry.filters),
        ]

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight_bits"] = self.dense_weights()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        bits, problems = state_dict.get(prefix + "weight_bits"), self.state_problems(state_dict, prefix)
        if problems:
            error_msgs += [f"{prefix.removesuffix('.') or 'the layer'}: {problem}" for problem in problems]
            return
        found: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, found, error_msgs)
        unexpected_keys += [key for key in found if key != prefix + "weight_bits"]
        if bits is None:
            missing_keys.append(prefix + "weight_bits")
        else:
            self._hold(bits.detach().to(self.weights.device, copy=True), None)

    def extra_repr(self) -> str:
        g, fold = self.geometry, self.folding
        parts = [f"{g.channels}, {g.out_channels}", f"kernel={g.kernel}", f"stride={g.stride}", f"padding={g.padding}"]
        parts += [f"dilation={g.dilation}"] * (g.dilation != (1, 1)) + [f"groups={g.groups}"] * (g.groups > 1)
        parts += ["relu"] * fold.relu + [f"shuffle={fold.shuffle}"] * (fold.shuffle > 1)
        parts += ["from bits"] * fold.input_bits + ["to bits"] * fold.output_bits
        return ", ".join(parts)


def regular(image: Tensor) -> Tensor:
    """``image`` in one of the two memory orders that the kernels read; words in their only one."""
    regular = image.is_contiguous() or image.is_contiguous(memory_format=torch.channels_last)
    return image if regular else image.contiguous()


class PackedConv2d(PackedLayer):
    """A packed ``nn.Conv2d``: (N, C, H, W) -> (N, C', H', W'), in the memory order of the input."""

    def to_image(self, x: Tensor) -> Tensor:
        return x.unsqueeze(0) if x.dim() == self.dims + 1 else x

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        return y.squeeze(0) if x.dim() == self.dims + 1 else y


class PackedConv1d(PackedConv2d):
    """A packed ``nn.Conv1d``: (N, C, L) -> (N, C', L'). It is a 2-D convolution of images one pixel high."""

    dims = 1

    def size_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return (1, shape[-1])

    def to_image(self, x: Tensor) -> Tensor:
        return super().to_image(x).unsqueeze(1 if self.folding.input_bits else 2)

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        return super().from_image(y.squeeze(1 if self.folding.output_bits else 2), x)

    def pad_with_values(self, image: Tensor) -> Tensor:
        return super().pad_with_values(image.squeeze(2)).unsqueeze(2)


class PackedLinear(PackedLayer):
    """A packed ``nn.Linear``: (*, in_features) -> (*, out_features). The rows are the pixels of one image."""

    dims = 0

    @property
    def in_features(self) -> int:
        return self.geometry.channels

    @property
    def out_features(self) -> int:
        return self.geometry.out_channels

    def size_of(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return (1, math.prod(shape[:-1]))

    def to_image(self, x: Tensor) -> Tensor:
        rows = x.reshape(1, 1, -1, x.shape[-1])
        return rows if self.folding.input_bits else rows.permute(0, 3, 1, 2)

    def window_mean(self, image: Tensor, geometry: ConvGeometry, threshold: Tensor | None) -> Tensor:
        image = image.float()
        magnitude = image if threshold is None else image - threshold.view(1, -1, 1, 1)
        return magnitude.abs().mean(1, keepdim=True).contiguous()

    def from_image(self, y: Tensor, x: Tensor) -> Tensor:
        rows = y if self.folding.output_bits else y.permute(0, 2, 3, 1)
        return rows.reshape(*x.shape[:-1], rows.shape[-1])
