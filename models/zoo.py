"""Trained networks that come with the package, by name and dataset: ``create_model(name, pretrained="mnist")``.

``weights/registry.json`` says what there is and how it was trained; ``tools/ship.py`` writes it. A network has two
files beside it: its state with a bit a binary weight (:func:`quantize.load_compact_state`), which evaluates and trains
on in PyTorch, and its packed ONNX file. Both are checked against their sha256 before they are read.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from . import registry

if TYPE_CHECKING:
    from PIL.Image import Image

WEIGHTS = Path(__file__).parent / "weights"
REGISTRY = "registry.json"
SAMPLE_STEP = 20


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained network of the zoo.

    Attributes:
        name, dataset: which it is, as :func:`create_model` takes them.
        accuracy: top-1 in percent on the test set, of the network as it ships.
        sample: how many it gets right of every ``SAMPLE_STEP``-th test image, which the tests keep.
        float_accuracy: of its float twin after the same training, or None.
        data: what it was trained and tested on, in words.
        classes: their names, in the order of the outputs.
        input_size: (channels, height, width).
        mean, std: of a channel, for pixels in 0 to 1.
        command: that trained it; ``seed``, ``epochs``, ``commit`` and ``date`` belong to it.
        log: of the training, a folder in READMEs/runs.
        state, onnx: file names and their sha256.
    """

    name: str
    dataset: str
    accuracy: float
    sample: int
    float_accuracy: float | None
    data: str
    classes: list[str]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    command: str
    seed: int
    epochs: int
    commit: str
    date: str
    log: str
    state: dict[str, str]
    onnx: dict[str, str]

    @property
    def onnx_path(self) -> Path:
        """The packed ONNX file. Raises ValueError where it is damaged."""
        return _checked(**self.onnx)

    @property
    def state_path(self) -> Path:
        """The plan and the compact state of the network. Raises ValueError where the file is damaged."""
        return _checked(**self.state)

    def images(self, *pictures: "Image") -> Tensor:
        """Pictures of any size as the network takes them, float32 (N, C, H, W): the largest central region, resized."""
        from PIL import Image, ImageOps

        channels, height, width = self.input_size
        bilinear, mode = Image.Resampling.BILINEAR, "L" if channels == 1 else "RGB"
        fitted = [ImageOps.fit(picture.convert(mode), (width, height), bilinear) for picture in pictures]
        pixels = torch.from_numpy(np.stack([np.asarray(p).reshape(height, width, channels) for p in fitted]))
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def list_pretrained() -> list[tuple[str, str]]:
    """(name, dataset) of the trained networks, sorted."""
    return sorted(read_registry())


def get_pretrained(name: str, dataset: str) -> Pretrained:
    """What is known of a trained network. Raises ValueError where there is none, with those that there are."""
    found = read_registry()
    if (name, dataset) not in found:
        own = [data for network, data in sorted(found) if network == name]
        valid = ", ".join(f"{network} for {data}" for network, data in sorted(found))
        hint = f"there are those for {' and '.join(map(repr, own))}" if own else f"valid: {valid}"
        raise ValueError(f"there are no trained weights of {name!r} for {dataset!r}: {hint}")
    return found[name, dataset]


def create_model(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    schemes: registry.Schemes = (),
    pretrained: str | bool | None = None,
    packed: bool = False,
    **options: Any,
) -> nn.Module:
    """A float network with fresh weights, or a binary one that has been trained.

    Args:
        name: ``nin_gc``, ``nin_gc_xnornet`` (its layout for binary layers), ``timm/resnet18``, ...
        num_classes: outputs of the last layer; those of the trained network, or 10.
        in_chans: channels of the input; the network's own by default.
        schemes: those that may end ``name``, see :func:`resolve`.
        pretrained: the dataset of a trained network (see :func:`list_pretrained`): the result is then *binary*, has
            the accuracy of the registry as it is, and trains on. Of timm's networks: True for timm's weights.
        packed: of a trained network, the form for inference that :func:`quantize.convert` makes.
        options: further keyword arguments of the network (of ``timm.create_model`` for timm).

    Raises ValueError for an unknown name or option, a size below 1, or trained weights that there are not.
    """
    if name.startswith(registry.TIMM_PREFIX) and pretrained is not None:
        options["pretrained"], pretrained = pretrained, None
    if not pretrained:
        if packed:
            raise ValueError("packed=True is the form of a trained network; name its dataset with pretrained=...")
        return registry.create_model(name, 10 if num_classes is None else num_classes, in_chans, schemes, **options)
    if pretrained is True:
        raise ValueError(f"pretrained=True does not say which weights of {name!r}; name the dataset they are for")
    entry = get_pretrained(name, pretrained)
    for what, given, own in (
        ("num_classes", num_classes, len(entry.classes)),
        ("in_chans", in_chans, entry.input_size[0]),
    ):
        if given not in (None, own):
            raise ValueError(
                f"{what} is {given}, and {name!r} was trained on {pretrained!r} with {own}; leave it out and replace "
                f"the layer in what you get"
            )
    return _build(entry, packed, schemes, options)


def _build(entry: Pretrained, packed: bool, schemes: registry.Schemes, options: dict[str, Any]) -> nn.Module:
    import quantize

    contents = torch.load(entry.state_path, weights_only=True)
    model = registry.create_model(entry.name, len(entry.classes), entry.input_size[0], schemes, **options)
    model = quantize.apply_plan(model, quantize.Plan.from_list(contents["plan"]), inplace=True).eval()
    quantize.load_compact_state(model, contents["state"])
    return quantize.convert(model, torch.zeros(1, *entry.input_size)) if packed else model


def read_registry() -> dict[tuple[str, str], Pretrained]:
    file = WEIGHTS / REGISTRY
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    entries = [Pretrained(**{key: _tuple(value) for key, value in row.items()}) for row in rows]
    return {(entry.name, entry.dataset): entry for entry in entries}


def _tuple(value: Any) -> Any:
    """Lists of numbers as tuples; JSON knows no tuples."""
    numbers = isinstance(value, list) and not any(isinstance(v, str) for v in value)
    return tuple(value) if numbers else value


def _checked(file: str, sha256: str) -> Path:
    path = WEIGHTS / file
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} is missing: install xnorkit again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{str(path)!r} is damaged: its sha256 is {found[:12]}..., that of the trained network {sha256[:12]}...; "
            "install xnorkit again"
        )
    return path
