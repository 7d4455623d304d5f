"""From a module to an ONNX graph: trace it, then fold what is constant."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..binary.quantized_layer import QuantizedLayer
from ..calling import call_arguments, tensors_in
from ..packed.layers import PackedLayer
from .attention import AttentionOfAnyRank
from .failure import failure
from .functions import OPSET

# Of an input, the sizes that are dynamic.
_SIZES = {0: "batch"}
_IMAGE_SIZES = {0: "batch", 2: "height", 3: "width"}


def trace(model: nn.Module, batch: Any, dynamic_size: bool = False) -> ir.Model:
    """The simplified ONNX model of ``model``, in evaluation mode and on the CPU.

    The batch is dynamic, and with ``dynamic_size`` the height and width of images.

    Its outputs are the model's tensors, then the input of every call of a layer that takes the signs of floats
    (:func:`takes_signs`), in the order of the calls: :func:`drop_taps` removes these.

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
    return isinstance(layer, QuantizedLayer) or (isinstance(layer, PackedLayer) and not layer.folding.input_bits)


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
    options = {"dynamo": True, "optimize": False, "verbose": False, "opset_version": OPSET}
    try:
        with _quiet(), AttentionOfAnyRank():
            program = torch.onnx.export(model, args, kwargs=kwargs, dynamic_shapes=dims, **options).model
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        what = "batch" + " and size" * dynamic_size
        raise RuntimeError(f"PyTorch cannot trace the model with a dynamic {what}: {failure(error, model)}") from error
    for value, sizes in zip(program.graph.inputs, names, strict=True):
        for axis, name in sizes.items():
            if isinstance(value.shape[axis], int):
                raise RuntimeError(
                    f"PyTorch traces the model for a {name} of {value.shape[axis]} only, whatever the input's is"
                )
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


def simplify(model: ir.Model) -> None:
    """Fold constants and remove what computes nothing, in place. Weights stay int8, batch norm stays a node."""
    _fix_reshape_targets(model.graph)
    _leave_out_windows(model.graph)
    onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=_should_fold)
    _drop_zero_bias(model.graph)
    for tidy in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(size_limit=1),
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
    ):
        tidy(model)
    _put_scale_first(model.graph)


def _should_fold(node: ir.Node) -> bool | None:
    """Keep the Cast of a stored weight: folded, it would take 32 bits a weight."""
    is_stored = node.op_type == "Cast" and node.inputs[0].dtype == ir.DataType.INT8
    return False if is_stored else None


def _fix_reshape_targets(graph: ir.Graph) -> None:
    """Write (-1, 256, 8, 8) where the exporter computes the shape from the batch size at run time."""
    for node in list(graph):
        shape = node.outputs[0].shape if node.op_type == "Reshape" else None
        if shape is None:
            continue
        target = [size if isinstance(size, int) else -1 for size in shape]
        if target.count(-1) <= 1 and 0 not in target:
            constant = ir.node("Constant", [], {"value": ir.tensor(np.array(target, np.int64))})
            node.prepend(constant)
            node.replace_input_with(1, constant.outputs[0])


def _leave_out_windows(graph: ir.Graph) -> None:
    """Pad a max pooling for PyTorch's number of windows where ``ceil_mode`` has one more in this opset.

    It is one that starts behind the input and its first padding, which PyTorch leaves out.
    """
    for node in graph:
        if node.op_type not in ("MaxPool", "BinaryMaxPool") or not node.attributes.get_int("ceil_mode", 0):
            continue
        names = ("kernel_shape", "strides", "dilations", "pads")
        kernel, strides, dilations, pads = (np.array(node.attributes.get_ints(name)) for name in names)
        # Of a pooling without a batch the exporter does not say the shapes.
        x, y = ((value.shape or (None,) * 3)[2:] for value in (node.inputs[0], node.outputs[0]))
        if not all(isinstance(size, int) for size in (*x, *y)):
            continue
        before, after = pads[: len(x)], pads[len(x) :]
        last = np.array(x) + before - dilations * (kernel - 1) - 1  # where the last window that is whole starts
        if (-(-(last + after) // strides) + 1 != y).any():
            after = ((np.array(y) - 1) * strides - last).clip(0)
            node.attributes["pads"] = ir.AttrInt64s("pads", [*before.tolist(), *after.tolist()])
            node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)


def _drop_zero_bias(graph: ir.Graph) -> None:
    """A convolution without bias is exported with a bias of zeros."""
    for node in graph:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3:
            bias = ir.convenience.get_const_tensor(node.inputs[2])
            if bias is not None and not bias.numpy().any():
                node.replace_input_with(2, None)


def _put_scale_first(graph: ir.Graph) -> None:
    """``Mul(scale, y)``: onnxruntime folds the factor of ``Mul(y, scale)`` into the weights of a convolution.

    Its sums would then be rounded floats instead of whole numbers.
    """
    for node in graph:
        if node.op_type == "Mul" and node.inputs[1].is_initializer() and node.inputs[1].name.endswith(".weight_scale"):
            first, second = node.inputs
            node.replace_input_with(0, second)
            node.replace_input_with(1, first)


def drop_taps(model: ir.Model, outputs: int) -> None:
    """Keep the first ``outputs`` outputs and what they need, in place."""
    del model.graph.outputs[outputs:]
    passes.RemoveUnusedNodesPass()(model)
