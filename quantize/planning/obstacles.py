"""Which weights a model has, and why some of them cannot become binary."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import ParametrizationList

from ..binary.attention import SplitAttention
from ..binary.binary_layer import STATE, BinaryLayer
from ..binary.layers import binary_class, layer_adapter
from ..calling import check_has_layers
from ..packed.codes.expanded import is_converted
from ..sharded import is_sharded
from .observe import Observation

# Modules that hand their matrices to a function, found without running the model.
_FUNCTIONAL = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolution and linear layers of ``model`` by name, a shared one once.

    Raises TypeError for a scripted or exported model, ValueError for a converted one, and for a layer that is binary
    already, or sharded, or lazy and without a shape.
    """
    check_has_layers(model)
    if is_converted(model):
        raise ValueError("the model is a converted one, and holds bits only; prepare the float model instead")
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer):
            raise ValueError(f"layer {name!r} is binary already; quantize.restore(model) gives the float model back")
        # torch types the method for modules of a protocol, which its mixin alone is not.
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise ValueError(f"layer {name!r} is lazy and has no shape yet; run the model once, then prepare it")
        if binary_class(module) is None:
            continue
        if any(is_sharded(parameter) for parameter in module.parameters()):
            raise ValueError(f"layer {name!r} is sharded; prepare the model first, then shard it (fully_shard)")
        found[name] = module
    return found


def functional_weights(
    model: nn.Module, layers: Mapping[str, nn.Module], seen: Observation | None
) -> dict[nn.Module, list[tuple[str, Tensor]]]:
    """Module -> (name, matrix) for the matrices that are multiplied with and belong to no layer.

    Without a run (``seen``) only those of modules known for it are found.
    """
    own = {*layers.values()}
    of_layers = {id(layer.weight) for layer in own}
    found = defaultdict(list)
    for path, module in model.named_modules():
        if module in own or (isinstance(module, ParametrizationList) and _parametrized(model, path) in own):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in of_layers or parameter.dim() < 2:
                continue
            known = isinstance(module, torch.jit.ScriptModule) or (isinstance(module, _FUNCTIONAL) and "weight" in name)
            known = known or is_expert_tensor(module, parameter)
            if known or (seen is not None and seen.products[id(parameter)] > 0):
                found[module].append((name, parameter))
    return found


def is_expert_tensor(module: nn.Module, parameter: Tensor) -> bool:
    """Whether it holds a matrix for each expert of a mixture, as the models of ``transformers`` have them."""
    return parameter.dim() == 3 and len(parameter) == getattr(module, "num_experts", 0) > 1


def _is_in_projection(module: nn.Module, parameter: str) -> bool:
    return isinstance(module, SplitAttention) and parameter in ("in_proj_weight", "in_proj_bias")


def _parametrized(model: nn.Module, path: str) -> nn.Module:
    """The module one of whose parameters is computed by the parametrization at ``path``."""
    return model.get_submodule(path.rpartition("parametrizations")[0].rstrip("."))


class Obstacles:
    """Why layers of one model cannot become binary.

    Args:
        layers: those of :func:`find_layers`.
        seen: what a run showed, None without one.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], seen: Observation | None):
        self._model, self._layers, self._seen = model, layers, seen
        self._owners = defaultdict(list)
        for name, module in model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                user = f"{name}.in_proj".lstrip(".") if _is_in_projection(module, key) else name
                self._owners[id(parameter)].append(user)

    def of(self, name: str) -> str | None:
        """Why the layer ``name`` cannot become binary, or None."""
        layer = self._layers[name]
        parent = self._model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention) and not isinstance(parent, SplitAttention):
            return "nn.MultiheadAttention uses its weight without calling it"
        if isinstance(parent, nn.TransformerEncoderLayer):
            return "the fused path of nn.TransformerEncoderLayer uses its weight without calling it"
        if hasattr(layer, "parametrizations"):
            return "its weight is computed by a parametrization"
        if not isinstance(layer.weight, nn.Parameter):
            return "its weight is computed by a hook"
        if layer_adapter(layer) is None:
            return f"{type(layer).__name__} has a forward of its own (quantize.register_layer can explain it)"
        taken = [attribute for attribute in STATE if hasattr(layer, attribute)]
        if taken:
            return f"it has an attribute {taken[0]!r}, a name that binary layers use"
        return self._use_elsewhere(layer) or self._no_call(layer)

    def _use_elsewhere(self, layer: nn.Module) -> str | None:
        owners = self._owners[id(layer.weight)]
        for owner in owners:
            if owner not in self._layers:
                return f"its weight is also that of {owner!r} ({type(self._model.get_submodule(owner)).__name__})"
        if self._seen is None:
            return None
        calls = sum(self._seen.calls[self._layers[owner]] for owner in owners)
        if self._seen.products[id(layer.weight)] > calls:
            return f"its weight is used without calling it{', too' if calls else ''}"
        return None

    def _no_call(self, layer: nn.Module) -> str | None:
        ran = self._seen is None or layer in self._seen.calls
        return None if ran else "it did not run on the example input"
