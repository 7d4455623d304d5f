"""What a converted layer's state_dict says of it, and the refusal of any other state before a model is changed.

Beside the bits a packed layer has a header, by which another layer's state is told. It is a tensor, the bytes of a JSON
object, so that whatever stores tensors stores it (safetensors); before that it was a dict, which is read as well.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import packing

STATE_VERSION = 1  # of what state_dict holds


def encode_header(header: Mapping[str, Any]) -> Tensor:
    """A header as a tensor, uint8 (bytes,)."""
    return torch.frombuffer(bytearray(json.dumps(header, separators=(",", ":")).encode()), dtype=torch.uint8)


def decode_header(stored: Any) -> dict[str, Any]:
    """The inverse of :func:`encode_header`, also of a header of old, a dict. ValueError for anything else."""
    if isinstance(stored, Tensor):
        try:
            stored = json.loads(bytes(stored.detach().cpu().flatten().to(torch.uint8).tolist()))
        except ValueError:
            raise ValueError("its header is not JSON: damaged data") from None
    if not isinstance(stored, dict):
        raise ValueError(f"its header is a {type(stored).__name__}, not a tensor that holds one: damaged data")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}


def refuse_other_states(
    model: nn.Module, state_dict: Mapping[str, Any], prefix: str, local_metadata, strict, missing, unexpected, errors
) -> None:
    """Hook of a converted model: raise RuntimeError, before anything is loaded, for a state that is not its own."""
    problems = list(_problems_below(model, state_dict, prefix))
    if problems:
        shown = [*problems[:4], *([f"... and {len(problems) - 4} more"] if len(problems) > 4 else [])]
        raise RuntimeError("\n\t".join(["nothing was loaded into the converted model:", *shown]))  # in torch's own form


def _problems_below(model: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, layer in model.named_modules():
        if hasattr(layer, "state_problems"):
            start = f"{prefix}{name}." if name else prefix
            for problem in layer.state_problems(state_dict, start):
                yield f"{start.removesuffix('.') or 'the layer'}: {problem}"


def form_problems(layer: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Why tensors of a state are not those of a converted ``layer``: a latent weight, or another shape."""
    if prefix + "weight" in state_dict:
        yield (
            "the state has a weight to train, this layer bits: load it into the model that quantize.prepare made, and "
            "convert that"
        )
    for name, buffer in layer.named_buffers(recurse=False):
        found = state_dict.get(prefix + name)
        if isinstance(found, Tensor) and found.shape != buffer.shape and name not in layer._non_persistent_buffers_set:
            yield f"size mismatch for {name}: {tuple(found.shape)} in the state, {tuple(buffer.shape)} in the model"


def header_problems(stored: Any, expected: Mapping[str, Any]) -> Iterator[str]:
    """How a header, encoded, differs from the one that is ``expected``; None is missing, which is no problem here."""
    if stored is None:
        return
    try:
        found = decode_header(stored)
    except ValueError as error:
        yield str(error)
        return
    if found.get("version") != expected["version"]:
        version, needed = found.get("version"), expected["version"]
        yield f"its packed state has version {version!r}; this xnorkit reads version {needed}"
        return
    for key, value in expected.items():
        if found.get(key) != value:
            yield (
                f"{key} is {found.get(key)!r} in the state and {value!r} in the model: it is of another model, or the "
                "model was converted in another way"
            )


def bits_problems(weight_bits: Any, filters: tuple[int, ...]) -> Iterator[str]:
    """Why dense bits are not those of ``filters``, of shape (out, c, kh, kw); None is missing."""
    if weight_bits is None:
        return
    if not isinstance(weight_bits, Tensor):
        yield f"its weight_bits are a {type(weight_bits).__name__}, not a tensor: damaged data"
        return
    try:
        packing.check_weights(weight_bits, filters)
    except ValueError as error:
        yield str(error)
