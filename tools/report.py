"""A report on runs, float against binary, from their own logs.

    python tools/report.py runs/NAME runs/OTHER ...        to report/: index.html, curves-*.png
    python tools/report.py READMEs/runs/* --out DIR
    python tools/report.py runs/* --no-measure             from the logs alone, which know no time of inference

Accuracy, size on disk, inference time, MACs and binary MACs of each run, what its training cost in time and memory,
its curves, and beside a binary run how it compares with the float run of the same network and data. Size and
inference time are those of the file that ships: each best.pt is written as an ONNX file with packed weights, to a
temporary directory, and timed. The page is one file that needs nothing else. A run that is not finished shows what
it has; what cannot be told is "-", with the reason.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantize.words import format_table
from tools.command_line import exit_code, tool_parser
from tools.plot_curves import draw
from tools.reporting.figure_table import cell, columns_of, compared, epochs, notes
from tools.reporting.html_page import Section, page
from tools.reporting.packed_inference import measure
from tools.reporting.run_dirs import run_dirs
from tools.reporting.run_figures import Run, families, read_run, twin

TITLE = "Float against binary"
PAGE = "index.html"
RUNS_A_PICTURE = 5  # beside the float one; more lines cannot be told apart


def pictures(family: Sequence[Run]) -> list[tuple[str, bytes]]:
    """Curves of a family, in as many pictures as are readable, each with the float run: a text and the PNG."""
    floats, binary = ([run for run in family if run.is_float is kind] for kind in (True, False))
    parts = max(1, -(-len(binary) // RUNS_A_PICTURE))
    each = -(-len(binary) // parts)
    found = []
    for i in range(parts):
        shown = [*floats, *binary[i * each : (i + 1) * each]]
        file = io.BytesIO()
        draw({run.name: run.curves for run in shown}, shown[0].title).savefig(file, format="png", dpi=180)
        found.append((f"Train and test top-1 by epoch of {', '.join(run.name for run in shown)}", file.getvalue()))
    return found


def sections(runs: Sequence[Run]) -> list[Section]:
    """One for each network on each data set, in the order of the runs."""
    by_group = {group: [run for run in runs if run.group == group] for group in dict.fromkeys(r.group for r in runs)}
    found = []
    for group in by_group.values():
        related = families(group)
        found.append(Section(group[0].title, related, [p for family in related for p in pictures(family)]))
    return found


def text(section: Section, columns: dict) -> str:
    """A section for the terminal."""
    keys = list(columns)
    rows = []
    for family in section.families:
        for run in family:
            points = compared("top1", run, twin(run, family)).removesuffix(" points")
            rows.append((run.name, run.scheme, epochs(run), points, *(cell(key, run) for key in keys)))
    header = ("run", "scheme", "epochs", "against float", *(columns[key].title for key in keys))
    return "\n".join([section.title, format_table(header, rows, right=header[2:]), *notes(section.runs)])


def write(folder: Path, found: Sequence[Section], html: str) -> list[Path]:
    """Write page and pictures; their paths. Raises OSError where that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    pngs = [(section.title, png) for section in found for _, png in section.pictures]
    files = {folder / PAGE: html.encode()}
    for i, (title, png) in enumerate(pngs, 1):
        files[folder / f"curves-{i}-{title.replace('/', '_').replace(' on ', '-')}.png"] = png
    for path, contents in files.items():
        path.write_bytes(contents)
    return list(files)


def run(flags: argparse.Namespace) -> None:
    """Read, measure where asked, and write. Raises ValueError or OSError, in one sentence."""
    if flags.out.exists() and not flags.out.is_dir():
        raise NotADirectoryError(f"--out {str(flags.out)!r} is a file; name a directory")
    dirs = run_dirs(flags.runs)
    runs = [read_run(name, path) for name, path in dirs.items()]
    if flags.measure:
        runs = measure(runs, list(dirs.values()))
    found, columns = sections(runs), columns_of(runs)
    paths = write(flags.out, found, page(TITLE, found, columns))
    print("\n\n".join([*(text(section, columns) for section in found), f"wrote {', '.join(map(str, paths))}"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs")
    parser.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--measure", action=argparse.BooleanOptionalAction, default=True, help="size and speed of each best.pt as ONNX"
    )
    return exit_code("report", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
