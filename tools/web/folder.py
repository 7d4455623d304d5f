"""The folder of a page: the files of page/, the network in stages, and onnxruntime-web."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from tools.evaluating.onnx_files import OnnxFacts
from training.data import Normalization

from .stages import Kernel, Part, split
from .standard import folded, inlined

PAGE = Path(__file__).parent / "page"
NETWORK, RUNTIME = "network", "onnxruntime"  # folders of a page
DESCRIPTION, BITS, WHOLE = "network.json", "bits.bin", "whole.onnx"
WASM = "kernels.wasm"


def check_replaceable(out: Path) -> None:
    """Raises OSError for what is there and no page of ours."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{str(out)!r} is a file; name a folder")
    if out.exists() and any(out.iterdir()) and not (out / NETWORK / DESCRIPTION).is_file():
        raise FileExistsError(f"{str(out)!r} is a folder with other files; name a new one")


def write_page(
    out: Path, file: Path, facts: OnnxFacts, normalization: Normalization, runtime: Mapping[str, bytes]
) -> str:
    """Write the page of the network in ``file`` to the folder ``out``, which appears whole; a line that says so."""
    model, out = onnx.load(file), out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        page = Path(scratch) / "page"
        shutil.copytree(PAGE, page)
        (page / RUNTIME).mkdir()
        for name, contents in runtime.items():
            (page / RUNTIME / name).write_bytes(contents)
        described = write_network(page / NETWORK, model, with_kernels=(page / WASM).exists())
        described |= _about(model, file, facts, normalization)
        (page / NETWORK / DESCRIPTION).write_text(json.dumps(described, indent=1), encoding="utf-8")
        if out.exists():
            out.rename(Path(scratch) / "replaced")
        page.rename(out)
    return _summary(out, described)


def write_network(folder: Path, model: ModelProto, with_kernels: bool) -> dict[str, Any]:
    """Write the whole network, for onnxruntime-web alone, and its stages where our kernels take part; what is where."""
    folder.mkdir()
    (folder / WHOLE).write_bytes(folded(inlined(model)).SerializeToString())
    stages = split(model) if with_kernels else None
    bits, described = bytearray(), []
    for i, stage in enumerate(stages or []):
        if isinstance(stage, Part):
            name = f"part{i}.onnx"
            (folder / name).write_bytes(stage.model.SerializeToString())
            described.append({"op": "part", "file": name, "inputs": stage.inputs, "outputs": stage.outputs})
        else:
            described.append(stage.facts | {"tensors": _append(bits, stage)})
    if stages:
        (folder / BITS).write_bytes(bits)
    return {"whole": WHOLE, "bits": BITS, "stages": described}


def _append(bits: bytearray, stage: Kernel) -> dict[str, list[int]]:
    """Puts the tensors of a node behind ``bits``; [first byte, bytes] of each."""
    places = {}
    for name, tensor in stage.tensors.items():
        places[name] = [len(bits), tensor.nbytes]
        bits += tensor.tobytes()
    return places


def _about(model: ModelProto, file: Path, facts: OnnxFacts, normalization: Normalization) -> dict[str, Any]:
    texts = {entry.key: entry.value for entry in model.metadata_props}
    return {
        "name": texts.get("arch") or file.stem,
        "input": facts.input,
        "output": facts.output,
        "input_size": facts.input_size,
        "classes": facts.classes,
        "mean": normalization.mean,
        "std": normalization.std,
        "file_bytes": file.stat().st_size,
        "float_bytes": _float_bytes(model),
    }


def _float_bytes(model: ModelProto) -> int:
    """Of the network's parameters in float32; what weights in bits are, the nodes say that read them."""
    packed: dict[str, int] = {}
    for node in model.graph.node:
        shapes = [helper.get_attribute_value(entry) for entry in node.attribute if entry.name == "filter_shape"]
        packed |= {name: math.prod(shape) for shape in shapes for name in node.input[:2]}
    counts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.UINT8 and tensor.name in packed:
            counts.append(packed[tensor.name])
        elif tensor.data_type == TensorProto.FLOAT:
            counts.append(math.prod(tensor.dims))
    return 4 * sum(counts)


def _summary(out: Path, described: dict[str, Any]) -> str:
    kernels = sum(stage["op"] != "part" for stage in described["stages"])
    who = f"our kernels compute {kernels} of its nodes" if kernels else "onnxruntime-web computes it alone"
    return (
        f"{out}: {described['name']}, {described['file_bytes']:,} bytes (parameters in float: "
        f"{described['float_bytes']:,}); {who}"
    )
