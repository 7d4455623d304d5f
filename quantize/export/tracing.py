"""From a module to an ONNX graph, by torch's own exporter; where it cannot, why and at which module."""

import contextlib
import inspect
import logging
import traceback
import types
import warnings
from collections.abc import Iterator
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from ..binary.quantized_layer import QuantizedLayer
from ..calling import call_arguments, tensors_in
from ..packed.layers import PackedLayer
from .functions import OPSET
from .graph import simplify
from .lowering import LoweredLayer

_TRANSLATED = 4  # dimensions of the inputs of an attention that torch.onnx translates

# Of an input, the sizes that are dynamic.
_SIZES = {0: "batch"}
_IMAGE_SIZES = {0: "batch", 2: "height", 3: "width"}


def trace(model: nn.Module, batch: Any, dynamic_size: bool = False) -> ir.Model:
    """The simplified ONNX model of ``model``, in evaluation mode and on the CPU.

    The batch is dynamic, and with ``dynamic_size`` the height and width of images.

    Its outputs are the model's tensors, then the input of every call of a layer that takes the signs of floats
    (:func:`takes_signs`), in the order of the calls: :func:`.graph.drop_taps` removes these.

    Raises RuntimeError when PyTorch cannot trace the model, or only for one of these sizes.
    """
    taps: list[Tensor] = []  # copies: the model may change in place what a layer got
    # The exporter runs the model again, in another way, where its first one fails.
    handles = [model.register_forward_pre_hook(lambda *_: taps.clear())]
    handles += [
        layer.register_forward_pre_hook(lambda _, *call: taps.append(layer_input(*call).clone()), with_kwargs=True)
        for layer in model.modules()
        if takes_signs(layer)
    ]
    handles.append(model.register_forward_hook(lambda _, __, outputs: ([*tensors_in(outputs)], taps)))
    try:
        program = _export(model, batch, dynamic_size)
    finally:
        for handle in handles:
            handle.remove()
    simplify(program)
    return program


def takes_signs(layer: nn.Module) -> bool:
    """Whether it is a binary layer or a packed one, and gets floats: there a rounding can move a sign."""
    if isinstance(layer, (PackedLayer, LoweredLayer)):
        return not layer.folding.input_bits
    return isinstance(layer, QuantizedLayer)


def layer_input(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The input of a layer that was called with ``args`` and ``kwargs``."""
    return args[0] if args else kwargs["input"]


def is_image(x: Tensor) -> bool:
    """Whether it is floats (N, C, H, W)."""
    return x.dim() == 4 and x.is_floating_point()


def _sizes(x: Tensor, dynamic_size: bool) -> dict[int, str]:
    """The sizes of an input that are dynamic."""
    return _IMAGE_SIZES if dynamic_size and is_image(x) else _SIZES


def _export(model: nn.Module, batch: Any, dynamic_size: bool) -> ir.Model:
    args, kwargs = call_arguments(batch)
    names = [_sizes(leaf, dynamic_size) for leaf in tree_leaves(kwargs or args)]
    # Bound, because PyTorch wants what *args and **kwargs take as one tuple and one dict.
    bound = dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    dims = tree_map(lambda x: {i: torch.export.Dim(name) for i, name in _sizes(x, dynamic_size).items()}, bound)
    try:
        with _quiet(), AttentionOfAnyRank():
            exported = torch.onnx.export(
                model, args, kwargs=kwargs, dynamic_shapes=dims, opset_version=OPSET, dynamo=True, optimize=False,
                verbose=False,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        what = "batch" + " and size" * dynamic_size
        raise RuntimeError(f"PyTorch cannot trace the model with a dynamic {what}: {failure(error, model)}") from error
    program = cast(torch.onnx.ONNXProgram, exported).model
    for value, sizes in zip(program.graph.inputs, names, strict=True):
        for axis, name in sizes.items():
            size = None if value.shape is None else value.shape[axis]
            if isinstance(size, int):
                raise RuntimeError(f"PyTorch traces the model for a {name} of {size} only, whatever the input's is")
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks about its own workings; errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


class AttentionOfAnyRank(TorchFunctionMode):
    """Within it, attention of other than 4 dimensions is matrix products and a softmax, which torch.onnx knows."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            function = attention
        return function(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options,
) -> Tensor:
    """``F.scaled_dot_product_attention``: ``softmax(scale Q K^T + mask) V``, spelled out where it has to be.

    Shapes (..., L, E), (..., S, E) and (..., S, D) -> (..., L, D).
    """
    if query.dim() == _TRANSLATED or dropout_p:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options
        )
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:]).tril().bool()
    if attn_mask is not None and attn_mask.is_floating_point():
        scores = scores + attn_mask
    elif attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -float("inf"))
    return scores.softmax(-1) @ value


def failure(error: BaseException, model: nn.Module) -> str:
    """The first line of what is at the bottom of ``error``, after the module in which it arose, where that is known."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    reason = str(causes[-1]).strip().partition("\n")[0] or type(causes[-1]).__name__
    if "data-dependent" in reason:
        reason += "; of a detector, whose boxes are as many as it finds, export the parts: model.backbone, model.head"
    place = _place([frame for cause in causes for frame, _ in traceback.walk_tb(cause.__traceback__)], model)
    return f"in {place!r}: {reason}" if place else reason


def _place(frames: list[types.FrameType], model: nn.Module) -> str | None:
    """The module whose operation was translated in one of ``frames``, or whose forward is the innermost of them."""
    names, place = {module: name for name, module in model.named_modules()}, None
    for frame in frames:
        node, module = frame.f_locals.get("node"), frame.f_locals.get("self")
        if isinstance(node, torch.fx.Node) and node.meta.get("nn_module_stack"):
            return list(node.meta["nn_module_stack"].values())[-1][0]
        if isinstance(module, nn.Module):
            place = names.get(module, place)
    return place
