"""Write a page that runs a trained network in the browser: a picture, a drawing or the camera in, classes out.

    python tools/export_web.py runs/NAME/model.onnx page               an ONNX file of tools/export_onnx.py
    python tools/export_web.py lenet5_xnornet page --pretrained mnist  a network that comes with the package
    python tools/export_web.py net.onnx page --normalize imagenet      a file that does not say how its images are

The folder is all that there is to serve, by any web server: python -m http.server -d page. It has onnxruntime-web in
it, which npm fetches the first time (or --runtime DIR), and loads nothing from elsewhere. Where the file is in format
"packed", our kernels compute its binary layers.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import models
import quantize
from quantize.export.onnx_session import uses_domain
from quantize.export.qonnx_format import DOMAIN as QONNX_DOMAIN
from tools.command_line import exit_code, tool_parser
from tools.evaluating.onnx_files import OnnxFacts, read_facts
from tools.web.folder import check_replaceable, write_page
from tools.web.runtime import runtime_files
from training.data import Normalization
from training.data.normalization import PRESETS, get_preset, given


def find_file(flags: argparse.Namespace) -> Path:
    """The ONNX file that the flags name."""
    if flags.pretrained is not None:
        return models.get_pretrained(flags.file, flags.pretrained).onnx_path
    path = Path(flags.file).expanduser()
    if not path.is_file():
        own = [data for name, data in models.list_pretrained() if name == flags.file]
        hint = f"; of the network that comes with the package: --pretrained {own[0]}" if own else ""
        raise FileNotFoundError(f"no file {flags.file!r}{hint}")
    if path.suffix != ".onnx":
        raise ValueError(f"{flags.file!r} is no ONNX file; write one with tools/export_onnx.py")
    return path


def normalization_of(flags: argparse.Namespace, facts: OnnxFacts) -> Normalization:
    """That of the flags, or the file's own."""
    channels = facts.input_size[0]
    if flags.mean or flags.std:
        return given(flags.mean, flags.std, channels)
    if flags.normalize is not None:
        return get_preset(flags.normalize, channels)
    if facts.normalization is None:
        raise ValueError(
            f"{flags.file!r} does not say how its images are normalized; give --normalize, one of "
            f"{', '.join(PRESETS)}, or --mean and --std"
        )
    return facts.normalization


def run(flags: argparse.Namespace) -> None:
    """Write the page that the flags ask for. Raises ValueError or OSError, in one sentence."""
    check_replaceable(flags.out)
    path = find_file(flags)
    if uses_domain(str(path), QONNX_DOMAIN):
        raise ValueError(f"{str(path)!r} is in format 'qonnx', which browsers cannot run; export it as 'packed'")
    facts = read_facts(quantize.ort_session(path, threads=1), str(path))
    normalization = normalization_of(flags, facts)
    print(write_page(flags.out, path, facts, normalization, runtime_files(flags.runtime)))
    print(f"see it:  python -m http.server -d {flags.out} 8000, then http://localhost:8000")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("file", help="an ONNX file, or with --pretrained the name of a network")
    parser.add_argument("out", type=Path, help="the folder to write; a page of this tool is replaced")
    parser.add_argument("--pretrained", metavar="DATASET", help="of the network that comes with the package")
    parser.add_argument("--normalize", metavar="PRESET", help=f"{', '.join(PRESETS)}; default: as the file says")
    parser.add_argument("--mean", type=float, nargs="+", default=(), help="for pixels in 0 to 1; with --std")
    parser.add_argument("--std", type=float, nargs="+", default=())
    parser.add_argument("--runtime", type=Path, metavar="DIR", help="a folder of the npm package onnxruntime-web")
    return exit_code("export_web", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
