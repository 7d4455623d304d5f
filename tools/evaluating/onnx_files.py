"""What an ONNX file says of the images it takes and of its answers."""

import json
from typing import Any, NamedTuple

import onnxruntime

from training.data import Normalization


class OnnxFacts(NamedTuple):
    """An image classifier in an ONNX file.

    Attributes:
        input, output: names in the graph.
        input_size: (channels, height, width).
        classes, normalization, dataset: None where the file does not say.
    """

    input: str
    output: str
    input_size: tuple[int, int, int]
    classes: list[str] | None
    normalization: Normalization | None
    dataset: str | None


def read_facts(session: onnxruntime.InferenceSession, path: str) -> OnnxFacts:
    """The facts of the file at ``path``: from its graph, and its metadata as the trainer's export writes them.

    Raises ValueError, in one sentence, for what is no classifier of images, or contradicts itself.
    """
    inputs = session.get_inputs()
    source = inputs[0]
    if len(inputs) != 1 or source.type != "tensor(float)" or len(source.shape) != 4:
        found = ", ".join(f"{value.name}: {value.type} {value.shape}" for value in inputs)
        raise ValueError(f"{path!r} takes {found}; a batch of images is needed, float (N, channels, height, width)")
    if isinstance(source.shape[0], int):
        raise ValueError(f"{path!r} takes batches of {source.shape[0]} only; export it with a dynamic batch")
    texts = session.get_modelmeta().custom_metadata_map
    known = {key: _parse(texts[key]) for key in ("input_size", "classes", "input_normalization") if key in texts}
    size = _input_size(source.shape[1:], known.get("input_size"), path)
    return OnnxFacts(
        source.name,
        session.get_outputs()[0].name,
        size,
        _classes(known.get("classes"), path),
        _normalization(known.get("input_normalization"), size[0], path),
        texts.get("dataset"),
    )


def _input_size(shape: list[int | str | None], stated: Any, path: str) -> tuple[int, int, int]:
    """From the graph, where what is dynamic is not a number, and the metadata."""
    size = shape if stated is None else stated
    usable = isinstance(size, list) and len(size) == 3 and all(isinstance(n, int) and n > 0 for n in size)
    if not usable or size[0] not in (1, 3):
        raise ValueError(
            f"{path!r} takes {['N', *shape]}; an input (N, 1 or 3, height, width) of a known size is needed: "
            'export it with metadata={"input_size": [channels, height, width]}'
        )
    if any(isinstance(n, int) and n != known for n, known in zip(shape, size, strict=True)):
        raise ValueError(
            f"{path!r} takes {['N', *shape]} and says input_size {size} in its metadata; "
            "export it again with the right one"
        )
    return tuple(size)


def _classes(stated: Any, path: str) -> list[str] | None:
    if stated is not None and not (isinstance(stated, list) and all(isinstance(name, str) for name in stated)):
        raise ValueError(f"{path!r} says classes {stated!r} in its metadata; a JSON list of names is needed")
    return stated or None


def _normalization(stated: Any, channels: int, path: str) -> Normalization | None:
    if not stated:
        return None
    try:
        found = Normalization(*(tuple(map(float, stated[key])) for key in ("mean", "std")))
    except (TypeError, KeyError, ValueError):
        found = None
    if found is None or {len(values) for values in found} != {channels}:
        raise ValueError(
            f"{path!r} says input_normalization {stated!r} in its metadata; "
            f'{{"mean": [...], "std": [...]}} with {channels} values each is needed'
        )
    return found


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
