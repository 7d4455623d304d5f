"""The notebooks run from their first cell to their last, and keep outputs that say nothing of a machine."""

import runpy
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks are run with the extra docs")
pytest.importorskip("nbclient", reason="the notebooks are run with the extra docs")
pytest.importorskip("ipykernel", reason="the notebooks are run with the extra docs")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
run = runpy.run_path(str(ROOT / "docs" / "run_notebooks.py"))["run"]


def outputs(notebook) -> list:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def kinds(notebook) -> list[str]:
    """Of the outputs: printed, or the forms of what was shown."""
    return [output.get("name") or ",".join(sorted(output.data)) for output in outputs(notebook)]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def kept(request):
    return request.param, nbformat.read(request.param, as_version=4)


def test_a_notebook_runs_and_shows_what_it_keeps(kept, tmp_path, monkeypatch):
    path, notebook = kept
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = run(path)
    assert kinds(made) == kinds(notebook)
    assert [cell.source for cell in made.cells] == [cell.source for cell in notebook.cells]


def test_kept_outputs_are_of_one_run_and_name_no_place(kept):
    path, notebook = kept
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert "stderr" not in kinds(notebook)
    assert any("image/png" in kind for kind in kinds(notebook))
    printed = "".join(output.get("text", "") for output in outputs(notebook))
    assert not [word for word in printed.split() if word.startswith("/")]
    assert path.stat().st_size < 100_000
