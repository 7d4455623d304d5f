"""Write the ONNX file of a checkpoint, checked against PyTorch.

    python tools/export_onnx.py runs/NAME                    the best checkpoint of a run, to runs/NAME/model.onnx
    python tools/export_onnx.py runs/NAME/last.pt net.onnx
    python tools/export_onnx.py runs/NAME --float-layers int8                   the float layers in 8 bits
    python tools/export_onnx.py runs/NAME --float-layers int8 --calibrate DIR   calibrated on a folder of pictures

The input of the file is a batch of images, normalized as its metadata says; any batch size,
and any height and width with --dynamic-size. 8 bits are calibrated on training images, and refused where they cost
more than --max-drop points of the accuracy on them.
Exit codes: 0 done, 1 the file would not compute what the model computes, 2 something that cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

import quantize
from quantize.export.formats import FORMATS
from quantize.packed.int8.calibration import MAX_DROP
from tools.command_line import exit_code, tool_parser
from training import ModelInfo, TrainConfig, load_model
from training.config.resume import check_same_classes
from training.data import load_data
from training.evaluation import ONNX, check_exportable, onnx_metadata

CALIBRATED, BATCH = 1000, 100  # images


def calibration_images(info: ModelInfo, calibrate: str | None) -> tuple[Tensor, Tensor]:
    """Normalized training images and their labels, drawn from the set that the model was trained on, or another one.

    Args:
        calibrate: the name of a set, a folder of pictures, or None.

    Raises ValueError or OSError, in one sentence, where there is no such set or it has other classes.
    """
    known = {name: info.config[name] for name in ("dataset", "data_dir") if info.config.get(name) is not None}
    if calibrate is not None:
        known |= (
            {"dataset": "imagefolder", "data_dir": calibrate} if Path(calibrate).is_dir() else {"dataset": calibrate}
        )
    data = load_data(TrainConfig.create(**known, augment="none"), info.input_size, torch.device("cpu"))
    check_same_classes(info.classes, data.classes, str(info.path))
    order = torch.randperm(data.train.count, generator=torch.Generator().manual_seed(0))[:CALIBRATED]
    batches = [(info.normalization(pixels), labels) for pixels, labels in data.train.raw_batches(order.split(BATCH))]
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def float_layers(flags: argparse.Namespace, info: ModelInfo) -> dict[str, Any]:
    """What quantize.export_onnx is told of them."""
    if flags.float_layers != "int8":
        for name in ("calibrate", "max_drop"):
            if getattr(flags, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} is for --float-layers int8; give both, or neither")
        return {"float_layers": flags.float_layers}
    images, labels = calibration_images(info, flags.calibrate)
    return {"float_layers": "int8", "calibration": images, "labels": labels, "max_drop": flags.max_drop}


def export(flags: argparse.Namespace) -> quantize.ExportReport:
    """Write the file that the flags ask for. Raises ValueError, OSError or RuntimeError, in one sentence."""
    model, info = load_model(flags.checkpoint)
    check_exportable(info, flags.format)
    path = flags.file or info.path.with_name(ONNX)
    images = torch.randn(2, *info.input_size, generator=torch.Generator().manual_seed(0))
    options = {"format": flags.format, "dynamic_size": flags.dynamic_size, "check": not flags.no_check}
    options |= float_layers(flags, info)
    return quantize.export_onnx(model, path, images, metadata=onnx_metadata(info), **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    flags = _parser().parse_args(argv)
    try:
        return exit_code("export_onnx", lambda: print(export(flags)))
    except RuntimeError as error:
        print(f"export_onnx: {error}", file=sys.stderr)
        return 1 if isinstance(error, quantize.ExportMismatch) else 2


def _parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .pt file, or the directory of a run")
    parser.add_argument("file", type=Path, nargs="?", help=f"default: {ONNX} beside the checkpoint")
    parser.add_argument("--format", default="packed", help=f"{', '.join(FORMATS)}; default: %(default)s")
    parser.add_argument("--dynamic-size", action="store_true", help="images of any height and width, not one size")
    parser.add_argument("--no-check", action="store_true", help="do not compare the file with PyTorch")
    parser.add_argument("--float-layers", default="float", metavar="KIND", help="float or int8; default: %(default)s")
    parser.add_argument(
        "--calibrate", metavar="SET", help="a dataset or a folder of pictures; default: that of training"
    )
    parser.add_argument("--max-drop", type=float, metavar="POINTS", help=f"that 8 bits may cost; default: {MAX_DROP}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
