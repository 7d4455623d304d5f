"""What a network costs: MACs, binary MACs, parameters and bytes, a layer and in total, through ptflops."""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .binary.attention import SplitAttention
from .binary.forms import make_plain
from .binary.layers import FLOAT_CLASSES, BinaryLayer, counterpart
from .binary.quantized_layer import QuantizedLayer
from .binary.transposed import BinaryTransposedLinear
from .calling import check_has_layers, check_has_values, copy_model, describe, keeps_random_state, run, tensors_in
from .packed.codes.expanded import ExpandedLayer
from .packed.layers import PackedLayer
from .packing import Bits
from .words import format_table


@dataclasses.dataclass
class LayerCost:
    """One module that has parameters or MACs.

    Attributes:
        macs: multiply-accumulates of one sample as ptflops counts them, those of 1-bit layers left out.
        binary_macs: those of a layer with 1-bit weights, its bias left out.
        parameters: trainable ones, a threshold that no batch has settled left out.
        float_bytes: of its parameters and buffers as they are.
        packed_bytes: the same with the weights of a binary layer at its scheme's bits.
    """

    name: str
    type: str
    macs: int = 0
    binary_macs: int = 0
    parameters: int = 0
    float_bytes: int = 0
    packed_bytes: int = 0


@dataclasses.dataclass
class Summary(LayerCost):
    """The totals, and in ``layers`` the rows. ``print(summary)`` shows a table."""

    layers: list[LayerCost] = dataclasses.field(default_factory=list, repr=False)

    def ptflops_lines(self) -> list[str]:
        """The two lines that ptflops users know, in ptflops' own units; binary MACs count as zero."""
        from ptflops.utils import flops_to_string, params_to_string

        return [
            f"==> Computational complexity:  {flops_to_string(self.macs)}",
            f"==> Number of parameters:    {params_to_string(self.parameters)}",
        ]

    def binary_lines(self) -> list[str]:
        """What the two lines of ptflops leave out."""
        from ptflops.utils import flops_to_string

        ratio = self.float_bytes / self.packed_bytes if self.packed_bytes else 1.0
        return [
            f"==> Binary operations:  {flops_to_string(self.binary_macs)}",
            f"==> Size:  {self.float_bytes:,} bytes in float, {self.packed_bytes:,} packed ({ratio:.1f}x smaller)",
        ]

    def __str__(self) -> str:
        header = ("layer", "type", "MACs", "binary MACs", "parameters", "float bytes", "packed bytes")
        rows = [[row.name, row.type, *(f"{n:,}" for n in _numbers(row))] for row in [*self.layers, self]]
        return format_table(header, rows, right=header[2:])


@keeps_random_state
def summary(model: nn.Module, example_input: Any) -> Summary:
    """The cost of one forward pass of one sample, and of storing the model.

    Args:
        model: any module, prepared or not; it is left as it was.
        example_input: what the model is called with, as for :func:`quantize.prepare`.

    MACs are ptflops' (batch norm, activations and pooling included), functional calls not counted:
    ptflops would count the functional call inside a module once more. An element-wise operation of a
    binary layer (sign, scale) counts as zero, like its binary MACs.

    Raises ValueError when the model does not run on ``example_input``.
    """
    model = getattr(model, "_orig_mod", model)
    check_has_layers(model)
    if not any(tensor.is_meta for tensor in tensors_in(example_input)):  # on which it counts shapes alone
        check_has_values(model, "give an example_input on the meta device, to count alone")
    model = make_plain(copy_model(model)).eval()  # ptflops leaves methods behind on what it counts
    stored: set[int] = set()
    rows = {name: _storage(name, module, stored) for name, module in model.named_modules()}
    unsettled = {id(m.threshold) for m in model.modules() if isinstance(m, QuantizedLayer) and m.unsettled}
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in unsettled)
    for name, (float_macs, binary_macs) in _count(model, example_input).items():
        rows[name].macs, rows[name].binary_macs = float_macs, binary_macs
    shown = [row for row in rows.values() if any(_numbers(row))]
    total = Summary("total", type(model).__name__, parameters=parameters, layers=shown)
    for field in ("macs", "binary_macs", "float_bytes", "packed_bytes"):
        setattr(total, field, sum(getattr(row, field) for row in rows.values()))
    return total


def _numbers(row: LayerCost) -> tuple[int, ...]:
    return row.macs, row.binary_macs, row.parameters, row.float_bytes, row.packed_bytes


def _storage(name: str, module: nn.Module, stored: set[int]) -> LayerCost:
    """What a module's own tensors take; one that is in ``stored`` already (tied weights) takes nothing again."""
    row = LayerCost(name, type(module).__name__)
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    tensors = [t for t in own if id(t) not in stored]
    row.float_bytes = row.packed_bytes = sum(t.numel() * t.element_size() for t in tensors)
    unsettled = module.threshold if isinstance(module, QuantizedLayer) and module.unsettled else None
    row.parameters = sum(t.numel() for t in tensors if t.requires_grad and t is not unsettled)
    if isinstance(module, PackedLayer):
        row.float_bytes = row.packed_bytes = module.stored_bytes()
    if isinstance(module, BinaryLayer) and id(module.weight) not in stored:
        row.packed_bytes += packed_weight_bytes(module) - module.weight.numel() * module.weight.element_size()
    stored.update(map(id, own))
    return row


def packed_weight_bytes(layer: BinaryLayer) -> int:
    """Bytes of a layer's weight at its scheme's bits, each filter padded to a byte, and of a computed scale."""
    if layer.scheme.weight_bits >= 32:
        return layer.weight.numel() * layer.weight.element_size()
    filters = layer.to_filters(layer.weight)
    scale = layer.scheme.weight(layer.float_filters(), layer).scale
    learned = {p.untyped_storage().data_ptr() for p in layer.parameters()}  # counted as parameters already
    known = scale is None or scale.untyped_storage().data_ptr() in learned
    scale_bytes = 0 if scale is None or known else scale.numel() * scale.element_size()
    return len(filters) * -(-filters[0].numel() * layer.scheme.weight_bits // 8) + scale_bytes


class _Counted(nn.Module):
    """Calls the model with all its arguments; ptflops itself knows one tensor or keywords only."""

    def __init__(self, model: nn.Module, example_input: Any):
        super().__init__()
        self.model = model
        self.example_input = example_input

    def forward(self, _batch: Tensor) -> Any:
        return run(self.model, self.example_input)


@torch.no_grad()
def _count(model: nn.Module, example_input: Any) -> dict[str, tuple[int, int]]:
    """(MACs, binary MACs) by module name, of one sample.

    ptflops' own total leaves out what is inside a module that it counts itself, such as timm's Attention.
    """
    from ptflops import get_model_complexity_info

    batch = next((t for t in tree_leaves(example_input) if isinstance(t, Tensor) and t.dim()), None)
    if batch is None or len(batch) == 0:
        raise ValueError(f"example_input holds no tensor with a batch: {describe(example_input)}")
    counted = _Counted(model, example_input)
    counted(batch)  # ptflops would print a traceback where the input does not fit
    costs: dict[str, tuple[int, int]] = {}
    names = {module: name for name, module in counted.model.named_modules()}
    hooks = {kind: _hook(kind, names, costs, len(batch)) for kind in {type(module) for module in names}}
    for module in (module for module in names if hooks[type(module)]):
        module.register_forward_pre_hook(_without_keywords, with_kwargs=True)
    get_model_complexity_info(
        counted,
        (1,),  # not used: the input is the constructor's
        input_constructor=lambda _: batch,
        custom_modules_hooks={kind: hook for kind, hook in hooks.items() if hook},
        backend_specific_config={"count_functional": False},
        print_per_layer_stat=False,
        as_strings=False,
    )
    return costs


def _required(module: nn.Module) -> list[str]:
    """The arguments that a module's call must have."""
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]


def _without_keywords(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A call as ptflops can see it: what it must have, by position."""
    moved = [name for name in _required(module)[len(args) :] if name in kwargs]
    kept = {name: value for name, value in kwargs.items() if name not in moved}
    return (*args, *(kwargs[name] for name in moved)), kept


def _count_packed(module: PackedLayer, _args, output: Tensor) -> None:
    """Multiplications of a packed layer: each filter at each position of the output, that bits hold or floats."""
    g = module.geometry
    output = output.words if isinstance(output, Bits) else output
    positions = output.numel() // output.shape[-1 if module.folding.output_bits or module.dims == 0 else 1]
    counted: Any = module  # ptflops keeps its count there
    counted.__flops__ += positions * g.out_channels * math.prod(g.filters[1:])


def _count_expanded(module: ExpandedLayer, args: tuple, output: Tensor) -> None:
    """What ptflops counts for the float layer."""
    from ptflops.pytorch_ops import MODULES_MAPPING

    MODULES_MAPPING[FLOAT_CLASSES[module.kind]](module, args, output)


def _count_attention(module: SplitAttention, args: tuple, _output) -> None:
    """What ptflops counts of ``nn.MultiheadAttention``, without its projections, which are layers."""
    query, key = args[:2]
    length = 1 if module.batch_first and query.dim() == 3 else 0
    samples = query.numel() // (query.shape[length] * query.shape[-1])
    queries, keys = query.shape[length], key.shape[length]
    products = 2 * queries * keys * module.embed_dim + module.num_heads * queries * keys
    module.__flops__ += samples * (queries * module.embed_dim + products)


def _hook(kind: type[nn.Module], names: dict[nn.Module, str], costs: dict, samples: int) -> Callable | None:
    """ptflops' own hook for modules of class ``kind`` that also writes down each module's cost."""
    from ptflops.pytorch_ops import MODULES_MAPPING

    floating = next((base for base in FLOAT_CLASSES.values() if issubclass(kind, base)), None)
    floating = nn.Linear if counterpart(kind) is BinaryTransposedLinear else floating
    count = MODULES_MAPPING.get(kind) or MODULES_MAPPING.get(floating)  # ptflops itself misses subclasses
    if issubclass(kind, PackedLayer):
        count = _count_packed
    elif issubclass(kind, ExpandedLayer):
        count = _count_expanded
    elif issubclass(kind, SplitAttention):
        count = _count_attention
    if count is None:
        return None

    def hook(module, args, output):
        before = module.__flops__
        count(module, args[: len(_required(module)) or None], output)  # ptflops' attention takes no more
        macs, binary_macs = (module.__flops__ - before) // samples, 0
        if isinstance(module, PackedLayer):
            module.__flops__ = before
            macs, binary_macs = 0, macs
        elif isinstance(module, QuantizedLayer) and module.scheme.weight_bits == 1:
            module.__flops__ = before
            macs, binary_macs = 0, macs - _bias_additions(module, output) // samples
        counted = costs.get(names[module], (0, 0))
        costs[names[module]] = (counted[0] + macs, counted[1] + binary_macs)

    return hook


def _bias_additions(layer: nn.Module, output: Tensor) -> int:
    return 0 if layer.bias is None else output.numel()
