"""Networks in ONNX files, with inputs and PyTorch's answers beside them: what `make test-runtimes` runs elsewhere.

`PYTHONPATH=tests python -m runtimes.write FOLDER` writes NAME.onnx, NAME.input.npy and
NAME.output.npy. check.py and check.mjs read them and need nothing of xnorkit.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from converted_models import converted
from torch import Tensor, nn

import models
import quantize
from quantize.export.tracing import takes_signs

# Channel shuffles and max pooling on bits; a scale of the input; linear layers; weights of one and of two bits on
# floats.
NETWORKS = {
    "shuffles": ("nin_gc_xnornet", "xnor", (3, 32, 32)),
    "input_scale": ("nin_xnornet", "xnor:input_scale=True", (3, 32, 32)),
    "linear": ("lenet5_xnornet", "bireal", (1, 28, 28)),
    "one_bit_weights": ("lenet5_xnornet", "bwn", (1, 28, 28)),
    "two_bit_weights": ("lenet5_xnornet", "ternary", (1, 28, 28)),
}
FORMATS = ("packed", "standard", "int8")  # onnxruntime does not know the nodes of "qonnx"
IMAGES, CANDIDATES = 4, 64


def write(folder: Path, names=tuple(NETWORKS), formats=FORMATS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        arch, scheme, size = NETWORKS[name]
        torch.manual_seed(0)
        candidates = torch.randn(CANDIDATES, *size)
        prepared, _ = converted(models.create_model(arch, in_chans=size[0]), candidates, scheme)
        images = steady(prepared, candidates)
        for format in formats:
            file = folder / f"{name}_{format}.onnx"
            quantize.export_onnx(prepared, file, images, format=format)
            np.save(file.with_suffix(".input.npy"), images.numpy())
            np.save(file.with_suffix(".output.npy"), prepared(images).detach().numpy())


@torch.no_grad()
def steady(model: nn.Module, images: Tensor) -> Tensor:
    """The images in which every input of a sign is farthest from its threshold: no rounding moves it."""
    margin = torch.full((len(images),), torch.inf)

    def measure(layer: nn.Module, args: tuple[Tensor, ...], _: Any) -> None:
        (x,) = args
        if layer.scheme.signed_input:
            distance = x if layer.threshold is None else x - layer.per_channel(layer.threshold)
            torch.minimum(margin, (distance.abs() / x.abs().max()).flatten(1).amin(1), out=margin)

    handles = [layer.register_forward_hook(measure) for layer in model.modules() if takes_signs(layer)]
    model(images)
    for handle in handles:
        handle.remove()
    return images[margin.topk(IMAGES).indices]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write ONNX files, inputs and PyTorch's answers.")
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
