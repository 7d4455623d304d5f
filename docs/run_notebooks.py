"""Run notebooks from their first cell to their last, each in a process of its own, and keep their outputs.

    python docs/run_notebooks.py                     all of notebooks/
    python docs/run_notebooks.py FILE.ipynb ...

Exit codes: 0 done, 1 a cell failed; then that notebook is left as it was.
"""

import argparse
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
SECONDS = 300  # of a cell, on a machine with much else to do
# What tqdm says of widgets that are not installed, with the path of its file, is not for a page.
QUIET = {"PYTHONWARNINGS": "ignore:IProgress", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of now. Raises CellExecutionError, with the cell and what it said."""
    notebook = nbformat.read(path, as_version=4)
    os.environ.update(QUIET)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=SECONDS, resources=place, record_timing=False, coalesce_streams=True).execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}  # not the version of whoever ran it last
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="default: all of notebooks/")
    for path in parser.parse_args().files or sorted(NOTEBOOKS.glob("*.ipynb")):
        try:
            nbformat.write(run(path), path)
        except CellExecutionError as error:
            print(f"run_notebooks: {path.name}: {error}", file=sys.stderr)
            return 1
        print(path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
