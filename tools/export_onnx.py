"""Write the ONNX file of a checkpoint, checked against PyTorch.

    python tools/export_onnx.py runs/NAME                    the best checkpoint of a run, to runs/NAME/model.onnx
    python tools/export_onnx.py runs/NAME/last.pt net.onnx

The input of the file is a batch of images, normalized as its metadata says; any batch size,
and any height and width with --dynamic-size.
Exit codes: 0 done, 1 the file would not compute what the model computes, 2 something that cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import quantize
from quantize.export.formats import FORMATS
from tools.command_line import exit_code, tool_parser
from training import load_model
from training.evaluation import ONNX, check_exportable, onnx_metadata


def export(flags: argparse.Namespace) -> quantize.ExportReport:
    """Write the file that the flags ask for. Raises ValueError, OSError or RuntimeError, in one sentence."""
    model, info = load_model(flags.checkpoint)
    check_exportable(info, flags.format)
    path = flags.file or info.path.with_name(ONNX)
    images = torch.randn(2, *info.input_size, generator=torch.Generator().manual_seed(0))
    options = {"format": flags.format, "dynamic_size": flags.dynamic_size, "check": not flags.no_check}
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
