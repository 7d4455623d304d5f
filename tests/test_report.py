"""tools/report.py: the figures of logs, float against binary, in a table and in a page that stands alone."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from logged_runs import entries_of, write_entries, write_log
from tiny_runs import train

import quantize
from tools import report, results
from tools.benchmarking.timing import Times
from tools.reporting import packed_inference
from tools.reporting.figure_table import COLUMNS, cell, compared, duration, milliseconds, notes, short
from tools.reporting.run_figures import families, read_run, twin
from training import load_model

NIN = "--arch nin_xnornet --dataset cifar10"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each cell of the table, by row."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.rows, self.open = [], [], []
        self.feed(html)
        assert self.open == []  # every element was closed

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            cell = self.rows[-1][-1]
            if "small" in self.open or not cell:
                cell.append(data)
            else:
                cell[-1] += data  # after a <wbr>

    def column(self, title):
        """Row's name -> its cell: the figure, and where it is there the one beside the float run's."""
        header, *rows = self.rows
        return {row[0][0]: row[header.index([title])] for row in rows}


def call(*argv):
    return report.main([str(word) for word in argv])


def page_of(folder):
    return Page((folder / "index.html").read_text())


@pytest.fixture
def pair(tmp_path):
    """A float run and a binary one on the same machine, with all that a log can tell."""
    cost = {"macs": 500_000, "binary_macs": 1_500_000, "packed_bytes": 160_000}
    return [
        write_log(tmp_path / "plain", NIN + " --scheme none", scheme=None, peak=10**9, file_bytes=4_100_000),
        write_log(
            tmp_path / "bits", NIN, scheme="xnor", tests=(80.0, 88.5), peak=2 * 10**9, file_bytes=1_025_000, cost=cost,
            train_seconds=90.0, test_seconds=4.0,
        ),
    ]  # fmt: skip


def test_the_table_has_the_figures_of_the_logs_beside_each_other(pair, tmp_path, capsys):
    assert call(*reversed(pair), "--out", tmp_path / "out") == 0
    page = page_of(tmp_path / "out")
    # Training: 60 s + 61 s against 90 s + 91 s. Testing: the median of 2 s and 3 s, of 4 s and 5 s, for 1000 images.
    assert {title: tuple(page.column(title).values()) for title in [c[0] for c in page.rows[0][1:]]} == {
        "top-1": (["91.23%"], ["88.50%", "-2.73 points"]),
        "size on disk": (["4.10 MB"], ["1.02 MB", "0.25x"]),
        "packed": (["4.00 MB"], ["160.0 kB", "0.04x"]),
        "inference": (["-"], ["-"]),  # a log knows no time of what ships
        "MACs": (["2.00 M"], ["500.0 k", "0.25x"]),
        "binary MACs": (["0"], ["1.50 M"]),
        "training time": (["0:02:01"], ["0:03:01", "1.5x"]),
        "training memory": (["1.00 GB"], ["2.00 GB", "2.0x"]),
        "training tests": (["2.5 ms"], ["4.5 ms", "1.8x"]),
    }
    assert list(page.column("run").values()) == [["plain", "float, 2 epochs"], ["bits", "xnor, 2 epochs"]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "nin on cifar10"
    assert [line.split()[:5] for line in lines[3:5]] == [
        ["plain", "float", "2", "91.23%", "4.10"], ["bits", "xnor", "2", "-2.73", "88.50%"]
    ]  # fmt: skip
    assert lines[-1].startswith(f"wrote {tmp_path / 'out' / 'index.html'}, ")


def test_what_a_log_does_not_tell_is_a_dash_with_the_reason(pair, tmp_path, capsys):
    old = write_log(tmp_path / "old", NIN, scheme="xnor")
    assert call(*pair, old, "--out", tmp_path / "out") == 0
    page = page_of(tmp_path / "out")
    assert page.column("size on disk")["old"] == page.column("training memory")["old"] == ["-"]
    reasons = [
        "No size on disk of old: the run wrote no ONNX file; train with --export, or report with --measure.",
        "No training memory of old: the log is of a version that did not record it.",
    ]
    assert notes([read_run("old", old)]) == [reason.replace("of old", "of any run") for reason in reasons]
    for text in (capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text()):
        assert all(reason in text for reason in reasons)


def test_a_run_that_is_not_finished_shows_what_it_has(tmp_path):
    run = read_run("x", write_log(tmp_path / "x", NIN, scheme="xnor", tests=(50.0, 40.0), wanted=9))
    assert (run.epochs, run.wanted, cell("top1", run)) == (2, 9, "50.00%")
    half = write_log(tmp_path / "y", NIN, scheme="xnor", tests=(90.0, 20.0, 30.0), float_weights=1)
    assert cell("top1", read_run("y", half)) == "30.00%"  # of the 1-bit network
    first = read_run("z", write_log(tmp_path / "z", NIN, scheme="xnor", tests=(90.0,), wanted=9, float_weights=1))
    assert (cell("top1", first), cell("test_seconds", first)) == ("-", "-")
    assert "first of two stages" in first.missing["top1"]


def test_times_are_compared_on_one_machine_and_for_as_many_epochs(pair, tmp_path):
    flags = {"scheme": "xnor", "peak": 10**9, "file_bytes": 10**6}
    other = write_log(tmp_path / "other", NIN, machine="Another CPU", **flags)
    short_one = write_log(tmp_path / "short", NIN, tests=(80.0,), **flags)
    moved = write_log(tmp_path / "moved", NIN, **flags)
    start, *rest = entries_of(moved)
    elsewhere = json.loads(json.dumps(start).replace("Some CPU", "Another CPU"))
    write_entries(moved, [start, elsewhere, *rest])
    plain, binary, other, short_one, moved = (read_run(path.name, path) for path in (*pair, other, short_one, moved))
    assert moved.machines == (*plain.machines, *other.machines)

    def shown(run):
        return {key for key in COLUMNS if compared(key, run, plain)}

    everything = {"top1", "file_bytes", "packed_bytes", "peak_memory", "training_seconds", "test_seconds", "macs"}
    assert shown(binary) == everything
    assert shown(short_one) == everything - {"training_seconds"}
    assert shown(other) == shown(moved) == everything - {"peak_memory", "training_seconds", "test_seconds"}
    assert compared("test_seconds", moved, dataclasses.replace(plain, machines=moved.machines)) == ""


def test_a_binary_run_is_compared_with_the_float_run_most_like_it(tmp_path):
    def run(name, flags, scheme, epochs=2, **changes):
        tests = (50.0,) * epochs
        return read_run(name, write_log(tmp_path / name, flags, scheme=scheme, tests=tests, **changes))

    none = " --scheme none"
    runs = [
        run("xnor", NIN, "xnor"),
        run("nin", "--arch nin --dataset cifar10", None),
        run("layout", NIN + none, None, 5),
        run("layout2", NIN + none, None, 2),
        run("long", NIN, "xnor", 5),
        run("bnn", "--arch nin_bnn --dataset cifar10", "bnn"),
        run("classes", NIN, "xnor", classes=["c", "d"]),
        run("other", "--arch nin_gc_xnornet --dataset cifar10", "xnor"),
        run("svhn", "--arch nin_xnornet --dataset svhn", "xnor"),
        run("mixed", "--arch nin --dataset cifar10 --override classifier=bwn", None),
    ]
    found = {r.name: t and t.name for r in runs for t in [twin(r, runs)]}
    assert found == {
        "xnor": "layout2", "long": "layout", "bnn": "nin", "mixed": "nin",
        "classes": None, "other": None, "svhn": None, "nin": None, "layout": None, "layout2": None,
    }  # fmt: skip
    nins = [r for r in runs if r.group == runs[0].group]
    assert [[r.name for r in family] for family in families(nins)] == [
        ["layout2", "xnor"], ["nin", "bnn", "mixed"], ["layout", "long"]
    ]  # fmt: skip
    assert [section.title for section in report.sections(runs)] == [
        "nin on cifar10", "nin on cifar10", "nin_gc on cifar10", "nin on svhn"
    ]  # fmt: skip


def test_figures_are_short():
    assert [short(n, "B") for n in (0, 999, 1000, 1234567, 5e9)] == ["0 B", "999 B", "1.0 kB", "1.23 MB", "5.00 GB"]
    assert [milliseconds(s) for s in (0.0001234, 0.0456, 0.25, 12.3456)] == [
        "0.123 ms",
        "45.6 ms",
        "250 ms",
        "12346 ms",
    ]
    assert [duration(s) for s in (59.6, 90061)] == ["0:01:00", "1 day, 1:01:01"]


def test_the_page_stands_alone_and_its_pictures_are_the_files(pair, tmp_path):
    runs = [write_log(tmp_path / f"bits{i}", NIN, scheme="xnor") for i in range(7)]
    assert call(*pair, *runs, "--out", tmp_path / "out") == 0
    html = (tmp_path / "out" / "index.html").read_text()
    page = Page(html)
    files = sorted((tmp_path / "out").glob("*.png"))
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert [base64.b64decode(src.removeprefix("data:image/png;base64,")) for src in sources] == [
        file.read_bytes() for file in files
    ]
    texts = [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert len(texts) == 2  # eight binary runs, four beside the float one in each
    assert all(
        text.endswith(names) for text, names in zip(texts, ("plain, bits, bits0, bits1, bits2", "bits6"), strict=True)
    )
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base"}
    assert not [name for _, attrs in page.tags for name in attrs if name == "href" or name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    assert "/home/me" not in html
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_text_of_logs_and_directories_is_escaped(tmp_path):
    evil = '<img src=x onerror="alert(1)">&amp;$title'
    run = write_log(tmp_path / evil, NIN, scheme="<i>", machine="<script>alert(2)</script>")
    start, *rest = entries_of(run)
    start["config"]["dataset"] = "</h2><b>"
    start["environment"]["command"] = "python 'a<b'"
    write_entries(run, [start, *rest])
    assert call(run, "--out", tmp_path / "out") == 0
    page = page_of(tmp_path / "out")
    assert page.rows[1][0] == [evil, "<i>, 2 epochs"]
    assert not {tag for tag, _ in page.tags} & {"i", "b", "script"}
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 1


def test_the_kept_runs_of_the_project_have_their_rows(tmp_path):
    folders = [path.parent for path in sorted(results.READMES.glob("runs/*/log.jsonl"))]
    assert call(*folders, "--out", tmp_path) == 0
    html = (tmp_path / "index.html").read_text()
    for folder in folders:
        run = results.read_run(folder)
        name = folder.name.replace("_", "_<wbr>")
        assert re.search(rf"{name}<small>.*?</th><td>{run['result']['best_acc1']:.2f}%<", html)


def test_inference_is_that_of_the_packed_file(pair, tmp_path, monkeypatch, capsys):
    """Its size too; the time of the run's own test pass, in which binary layers compute in float, is training's."""
    runs = [train(tmp_path / name, epochs=1, **flags).run_dir for name, flags in (("f", {"scheme": "none"}), ("b", {}))]
    before = sorted(tmp_path.glob("[fb]/*"))

    def in_turns(timer, contestants):
        for contestant in contestants:
            assert contestant.run()[0].shape == (1, 10)
            assert contestant.threads == 1
        return [Times([[0.007, 0.008, 0.1]]), Times([[0.002]])]

    monkeypatch.setattr(packed_inference.Timer, "measure", in_turns)
    assert call(pair[0], *runs, "--out", tmp_path / "out") == 0
    page = page_of(tmp_path / "out")
    expected = {"plain": ["-"], "f": ["8 ms"], "b": ["2 ms", "0.25x"]}
    assert page.column("inference") | expected == page.column("inference")
    assert "No inference of any run: there is no best.pt to measure." in capsys.readouterr().out
    sizes = []
    for run in runs:
        model, info = load_model(run)
        images = torch.randn(3, *info.input_size)
        sizes.append(quantize.export_onnx(model, tmp_path / "own.onnx", images, check=False).size)
    assert page.column("size on disk")["b"] == [short(sizes[1], "B"), f"{sizes[1] / sizes[0]:.2g}x"]
    assert sorted(tmp_path.glob("[fb]/*")) == before


def test_without_measuring_the_log_alone_is_shown(tmp_path):
    run = train(tmp_path / "run", epochs=1).run_dir
    assert call(run, "--no-measure", "--out", tmp_path / "out") == 0
    assert ["inference"] not in page_of(tmp_path / "out").rows[0]


def test_a_model_that_no_file_can_hold_has_a_reason(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise quantize.ExportMismatch("the file computes other numbers.")

    run = train(tmp_path / "run", epochs=1).run_dir
    monkeypatch.setattr(quantize, "export_onnx", refuse)
    assert call(run, "--out", tmp_path / "out") == 0
    why = "its best.pt cannot be written as an ONNX file (the file computes other numbers)"
    assert f"No inference of any run: {why}." in capsys.readouterr().out


def test_a_file_of_another_format_is_not_the_packed_networks_size(tmp_path):
    run = write_log(tmp_path / "x", NIN, scheme="xnor", file_bytes=10**6)
    assert cell("file_bytes", read_run("x", run)) == "1.00 MB"
    start, *rest = entries_of(run)
    start["config"]["export_format"] = "int8"
    write_entries(run, [start, *rest])
    found = read_run("x", run)
    assert (cell("file_bytes", found), "not in format packed" in found.missing["file_bytes"]) == ("-", True)


@pytest.fixture
def folder(tmp_path):
    """What can be given wrongly."""
    run = write_log(tmp_path / "lenet5_xnornet", NIN, scheme="xnor")
    start, *rest = entries_of(run)
    write_entries(tmp_path / "started", [start])
    write_entries(tmp_path / "foreign", [[1, 2]])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "log.jsonl").write_text((run / "log.jsonl").read_text()[20:])
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "started" / "best.pt").touch()
    write_entries(tmp_path / "spoilt", [start, *rest])
    (tmp_path / "spoilt" / "best.pt").write_bytes(b"no checkpoint")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lenet_xnornet"], "there is no run directory 'lenet_xnornet': did you mean 'lenet5_xnornet'?"),
        (["file"], "there is no run directory 'file': valid: "),
        (["lenet5_xnornet", "empty"], "'empty' has no log (log.jsonl); give the directory of a run of trainer_exp.py"),
        (["."], "'.' has no log (log.jsonl); give a run in it: cut, foreign, lenet5_xnornet"),
        (["started"], "the run in 'started' has no finished epoch; continue it with trainer_exp.py --resume"),
        (["cut"], "'cut/log.jsonl' is damaged, or no log of trainer_exp.py"),
        (["foreign"], "'foreign/log.jsonl' is damaged, or no log of trainer_exp.py"),
        (["lenet5_xnornet", "--out", "file"], "--out 'file' is a file; name a directory"),
        (["spoilt", "--measure"], "'spoilt/best.pt' is not a complete checkpoint"),
    ],
)
def test_what_cannot_be_reported_is_one_sentence(argv, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert call(*argv) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("report: error: ")
    assert message in error
    assert not (folder / "report").exists()


def test_runs_of_one_name_are_told_apart_and_none_is_shown_twice(tmp_path, monkeypatch):
    for parent in ("a", "b"):
        write_log(tmp_path / parent / "run", NIN, scheme="xnor")
    monkeypatch.chdir(tmp_path)
    assert call("a/run", "b/run", "b/../a/run") == 0
    assert list(page_of(tmp_path / "report").column("run")) == ["a/run", "b/run"]
