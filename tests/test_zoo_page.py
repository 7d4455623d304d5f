"""READMEs/zoo.md: written from the registry, with each processor's own times."""

import models
from tools import zoo_page


def test_each_processor_has_its_own_times(monkeypatch):
    name, dataset = models.list_pretrained()[0]
    slow = {(name, "xnorkit_onnx"): 2000.0, (name, "ort_float"): 9000.0}
    fast = {(name, "xnorkit_onnx"): 1000.0}
    monkeypatch.setattr(zoo_page, "times", lambda: [("old", slow), ("new", fast)])
    table = [line for line in zoo_page.page().splitlines() if line.startswith("|")]
    assert table[0].endswith("| old: ms, float ms | new: ms, float ms |")
    about = models.get_pretrained(name, dataset)
    (row,) = [line for line in table if line.startswith(f"| {name} | {about.data} |")]
    assert row.endswith("| 2.000, 9.000 | 1.000, - |")
    assert f"| {about.accuracy:.2f} |" in row


def test_the_page_is_that_of_the_files_in_the_repository():
    assert (zoo_page.READMES / "zoo.md").read_text(encoding="utf-8") == zoo_page.page()
