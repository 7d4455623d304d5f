"""export_onnx: one ONNX file from a model, checked before it is there."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..binary.forms import make_plain
from ..binary.quantized_layer import QuantizedLayer
from ..calling import call_arguments, describe, evaluation_copy, keeps_random_state, run
from ..packed.int8.calibration import Int8Report, calibration_of
from ..packed.layers import PackedLayer
from ..version import __version__
from ..words import did_you_mean
from . import graph, tracing
from .float_layers import quantize_float_layers
from .formats import FORMATS, Format
from .functions import OPSET
from .graph import forget_origin, name_everything, numbered
from .parity import Parity, compare, tensors

_CHECKED_SAMPLES = 8


@dataclass(frozen=True)
class ExportReport:
    """What :func:`export_onnx` wrote.

    Attributes:
        path: the file.
        size: in bytes.
        opset: the version of the standard operators.
        parity: how far the file, in a runtime for it, is from PyTorch; None where it was not checked.
        unchecked: why it was not, or "".
        int8: what 8 bits in the float layers changed; None where these stayed float. ``parity`` is that of the file
            before.
    """

    path: Path
    size: int
    opset: int
    parity: Parity | None
    unchecked: str = ""
    int8: Int8Report | None = None

    def __str__(self) -> str:
        result = self.parity or f"not compared with PyTorch: {self.unchecked}"
        text = f"{self.path}: {self.size:,} bytes, opset {self.opset}, {result}"
        return text if self.int8 is None else f"{text}; {self.int8}"


@keeps_random_state
def export_onnx(
    model: nn.Module,
    path: str | os.PathLike,
    example_input: Any,
    *,
    format: str = "packed",
    metadata: Mapping[str, Any] | None = None,
    dynamic_size: bool = False,
    check: bool = True,
    float_layers: str = "float",
    calibration: Tensor | None = None,
    labels: Tensor | None = None,
    max_drop: float | None = None,
) -> ExportReport:
    """Write ``model``, as it is in evaluation mode, to an ONNX file in float32 with a dynamic batch.

    In the file ``sign(x)`` is ``Where(x >= 0, 1, -1)`` and a scale is a ``Mul``. The model itself, its mode,
    hooks and device are left as they are.

    Args:
        model: prepared or float; in DataParallel, DistributedDataParallel or ``torch.compile`` too.
        path: the file; an older one is replaced only by one that passed the checks.
        example_input: what the model is called with: a tensor, a tuple of tensors, or a dict for keywords.
            The first dimension of each is the batch.
        format: "packed": 1 bit a weight; binary layers are functions of domain ``xnorkit``, which onnxruntime from
            1.18 on inlines, and our kernels compute where they are registered. "standard": operators of the ONNX
            standard only, on floats, 8 bits a weight. "int8": the converted model in its integer operators, 8 bits a
            weight, for CPUs without our library, where onnxruntime is 1.24 or newer. "qonnx": "standard" with the
            low-bit values as nodes of the QONNX dialect, for FPGA flows. All in opset 21.
        metadata: written into the file, text as it is, anything else as JSON. The schemes and the version
            of xnorkit are always in it.
        dynamic_size: leave the height and width of images open too; the network must take any, so that it has a
            global pooling and no ``Flatten`` of a map.
        check: compare the file, in onnxruntime, with PyTorch on the first samples of ``example_input``
            and, in another batch size, on random input; a QONNX file in the executor of the package ``qonnx``,
            where that is installed.
        float_layers: "float", or "int8" in format "packed": convolutions and linear layers with float weights become
            functions of 8-bit numbers, calibrated on the images of ``calibration``. The check is that of the file
            before; what 8 bits then change is in the report.
        calibration: floats (N, ...), such as the network takes; a few hundred images of the training set, say.
        labels: whole numbers (N,): the drop is that of top-1 then, else the share of predictions that change.
        max_drop: points of a percent that 8 bits may cost on ``calibration``; 0.1 where it is None.

    Raises:
        ValueError: an unknown format, or one in which a layer has no form; 8 bits cost more than ``max_drop``, or
            there are no float layers; an ``example_input`` that the model does not take; a model that takes one batch
            size only, or one image size where ``dynamic_size``, or returns NaN.
        TypeError: ``example_input`` or ``metadata`` has something that cannot be written.
        OSError: the directory does not exist or cannot be written to.
        RuntimeError: PyTorch cannot trace the model with a dynamic batch or size.
        ExportMismatch: the file and PyTorch disagree; it is not written then.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown ONNX format {format!r}: {did_you_mean(format, FORMATS)}")
    kind = FORMATS[format]
    calibrated_on = calibration_of(float_layers, calibration, labels, max_drop, example_input)
    if calibrated_on is not None and format != "packed":
        raise ValueError(f"float_layers='int8' is for format 'packed', not {format!r}; leave float_layers out")
    unchecked = kind.why_unchecked() if check else "check=False"
    with _replacing(Path(path)) as temporary, _plain_float32():
        reference = make_plain(evaluation_copy(model)).cpu()
        batch = _example_batch(example_input)
        outputs = _outputs(reference, batch)
        other_batch = _random_batch(reference, batch, dynamic_size)
        reference, lowered = kind.lower(reference, batch)
        program = tracing.trace(lowered, batch, dynamic_size)
        kind.finish(program)
        tapped = ir.to_proto(program).SerializeToString()
        graph.drop_taps(program, len(outputs))
        name_everything(program, lowered, _input_names(batch))
        forget_origin(program)
        _describe(program, reference, metadata or {})
        if calibrated_on is None:  # 8 bits bring bits of their own
            kind.join(program)
        _save(program, temporary)
        parity = None if unchecked else _check(kind, reference, temporary, tapped, batch, other_batch)
        int8 = None
        if calibrated_on is not None:
            int8 = quantize_float_layers(program, dict(lowered.named_parameters()), calibrated_on)
            _save(program, temporary)
        size = os.path.getsize(temporary)
    return ExportReport(Path(path), size, OPSET, parity, unchecked, int8)


def _save(program: ir.Model, file: Path) -> None:
    ir.save(program, file)
    onnx.checker.check_model(file, full_check=True)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place when the block ends well, and vanishes otherwise."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no directory {str(path.parent)!r} to write {path.name!r} to; create it first")
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a directory; give the name of a file, such as 'net.onnx'")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
    except OSError as error:
        raise type(error)(f"cannot write to the directory {str(path.parent)!r}: {error.strerror}") from error
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _plain_float32() -> Iterator[None]:
    """No gradients, and nothing of the caller's inference mode or autocast."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        yield


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    """What the model returns; ValueError where that is nothing or not a number."""
    outputs = tensors(run(model, batch))
    if not outputs:
        raise ValueError("the model returns no tensor; an ONNX file needs an output")
    if any(output.isnan().any() for output in outputs):
        raise ValueError(
            "the model returns NaN on example_input, so there is nothing to compare; "
            "export a checkpoint from before the training diverged"
        )
    return outputs


def _example_batch(example_input: Any) -> Any:
    """The first samples of the example, on the CPU, at least two of them: PyTorch takes a size of 1 for a constant.

    Raises TypeError for what is no tensor, ValueError where the first dimensions differ.
    """
    args, kwargs = call_arguments(example_input)
    if any(isinstance(argument, (list, tuple)) for argument in (*args, *kwargs.values())):
        raise TypeError(
            "the model takes a list of images, and an ONNX file a batch: export its parts that take one, such as "
            "model.backbone and model.head of a detector, each with what it gets"
        )
    leaves = tree_leaves(example_input)
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"example_input must be a tensor, or a tuple or dict of tensors; got {type(leaf).__name__}")
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"the tensors of example_input need one batch size; got {describe(example_input)}")
    rows = [0, 0] if sizes == {1} else slice(_CHECKED_SAMPLES)

    def prepare(leaf: Tensor) -> Tensor:
        leaf = leaf.detach().cpu()[rows].clone()
        return leaf.float() if leaf.is_floating_point() else leaf

    return tree_map(prepare, example_input)


def _input_names(batch: Any) -> list[str]:
    names = list(batch) if isinstance(batch, Mapping) else []
    inputs = len(tensors(batch))
    return names if len(names) == inputs else numbered("input", inputs)


def _describe(program: ir.Model, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Producer and metadata: schemes and version, then the user's."""
    schemes = {str(layer.scheme) for layer in model.modules() if isinstance(layer, (QuantizedLayer, PackedLayer))}
    program.producer_name, program.producer_version = "xnorkit", __version__
    program.graph.name = type(model).__name__
    properties = {"scheme": "; ".join(sorted(schemes)) or "float", **metadata, "xnorkit_version": __version__}
    for key, value in properties.items():
        try:
            program.metadata_props[str(key)] = value if isinstance(value, str) else json.dumps(value)
        except TypeError as error:
            raise TypeError(f"metadata {key!r} is neither text nor JSON: {error}") from error


def _check(format: Format, model: nn.Module, file: Path, tapped: bytes, *batches: Any) -> Parity:
    session, tapped_session = format.open(str(file)), format.open(tapped)
    return max((compare(model, session, tapped_session, b) for b in batches), key=lambda parity: parity.difference)


def _random_batch(model: nn.Module, batch: Any, other_size: bool) -> Any:
    """One sample more than ``batch``: floats with its mean and spread, what has none with values that occur in it.

    With ``other_size`` images are larger. Raises ValueError where there are none, or the model does not run on it.
    """
    generator = torch.Generator().manual_seed(0)
    if other_size and not any(tracing.is_image(leaf) for leaf in tree_leaves(batch)):
        raise ValueError(f"dynamic_size is for images (N, C, H, W); example_input is {describe(batch)}")

    def draw(example: Tensor) -> Tensor:
        shape = [len(example) + 1, *example.shape[1:]]
        if other_size and tracing.is_image(example):
            shape[2:] = 2 * shape[2], 3 * shape[3]
        if example.is_floating_point() and example.isfinite().all():  # not a mask of 0 and -inf
            spread, mean = torch.std_mean(example)
            return (mean + (spread or 1) * torch.randn(shape, generator=generator)).to(example.dtype)
        return example.flatten()[torch.randint(example.numel(), shape, generator=generator)]

    other = tree_map(draw, batch)
    try:
        run(model, other)
    except ValueError as error:
        needed = "any batch and image size" if other_size else "any batch size"
        raise ValueError(
            f"the model runs on example_input, but not with a random batch {describe(other)}: "
            f"the file needs a model that takes {needed} ({error.__cause__})"
        ) from error
    return other
