"""tools/benchmark.py: results as tables, as JSON and as a page."""

import dataclasses
import json
from pathlib import Path

import pytest
from matplotlib import image

from tools import benchmark
from tools.benchmarking import forced, machine
from tools.benchmarking.cases import SWEEPS
from tools.benchmarking.measure import Row
from tools.benchmarking.page import performance_page, performance_plots
from tools.benchmarking.page import performance_tables as tables
from tools.benchmarking.result import Result, read_result


def row(case="a", side="xnorkit", batch=1, threads=1, time=10.0, ratio=1.0, **fields) -> Row:
    return Row(case, batch, threads, side, 1000, "avx512", time, time, time, 5, 0, 7.0, ratio, **fields)


ROWS = [
    row("a"), row("a", "ort_float", time=1234.5, ratio=4.0), row("b", time=20.0),
    row("b", "ort_float", time=180.0, ratio=9.0),
]  # fmt: skip


def test_tables_have_times_ratios_and_geometric_means():
    header, lines = tables.pivot(ROWS, {"xnorkit": "ours", "ort_float": "float"})
    assert header == ["case", "ours us", "GMAC/s", "float us", "ratio"]
    assert lines == [
        ["a", "10.0", "7", "1,234", "4.00"],
        ["b", "20.0", "7", "180.0", "9.00"],
        ["geometric mean", "", "", "", "6.00"],
    ]
    assert tables.markdown(["x", "y"], [["a", "1"]]) == "| x | y |\n| --- | --: |\n| a | 1 |\n"


def test_a_side_that_did_not_run_leaves_a_gap_and_its_reason():
    gap = Row("a", 1, 1, "openvino_binary", 1000, skipped="openvino is not installed")
    _, lines = tables.pivot([row("a"), gap], {"xnorkit": "ours", "openvino_binary": "OpenVINO"})
    assert lines == [["a", "10.0", "7", "-", "-"]]
    assert tables.skipped([row(), gap, gap]) == ["openvino_binary: openvino is not installed"]


def test_scaling_compares_the_most_threads_with_one():
    rows = [row(batch=32, threads=t, time=time) for t, time in ((1, 90.0), (2, 50.0))] + [row(threads=2, time=1.0)]
    assert tables.scaling(rows, 32) == (["case", "xnorkit"], [["a", "1.80"]])
    assert tables.scaling(ROWS, 1)[1] == []


def test_memory_in_kilobytes():
    sizes = {"stored": 5000, "model": 3000, "forward": 2_000_000}
    header, lines = tables.memory([{"case": "net", "batch": 2, "float": sizes, "packed": {**sizes, "stored": 1000}}])
    assert header == ["case", "batch", "stored, float kB", "stored, packed kB", "peak, float kB", "peak, packed kB"]
    assert lines == [["net", "2", "5", "1", "2,003", "2,003"]]


ENVIRONMENT = {
    "command": "python tools/benchmark.py", "date": "2026-01-02T03:04:05+00:00", "cpu": "Abacus", "cores": 3,
    "flags": ["beads"], "load": 0.25, "versions": {"torch": "9.9"},
}  # fmt: skip


def results() -> dict[str, Result]:
    found = {"shapes": Result("shapes", ENVIRONMENT, 2, {"": ROWS})}
    for kind, cases in SWEEPS.items():
        rows = [row(name, side) for name in cases for side in ("xnorkit", "ort_float")]
        found[kind] = Result(kind, ENVIRONMENT, 2, {"": rows})
    memory_of_one = {"stored": 1000, "model": 1000, "forward": 5000}
    measured = [{"case": "a", "batch": 1, "float": memory_of_one, "packed": memory_of_one}]
    found["networks"] = Result("networks", ENVIRONMENT, 2, {"": ROWS}, memory=measured)
    rows = [row("a"), row("a", "limit", time=8.0, ratio=0.8)]
    found["kernels"] = Result("kernels", ENVIRONMENT, 2, {"avx512": rows}, {"amx": "not available here"})
    return found


def test_results_survive_json(tmp_path):
    for result in results().values():
        result.write(tmp_path / "new" / "r.json")
        assert read_result(tmp_path / "new" / "r.json") == result


def test_json_has_a_row_a_line(tmp_path):
    result = results()["networks"]
    result.write(tmp_path / "r.json")
    rows = [line for line in (tmp_path / "r.json").read_text().splitlines() if '"case"' in line]
    assert [json.loads(line.rstrip(",")) for line in rows] == [*map(dataclasses.asdict, ROWS), *result.memory]


@pytest.mark.parametrize("text", ["{}", "[1]", "no", '{"kind": "poem", "environment": {}, "rounds": 1, "groups": {}}'])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other.json' is (not a result|of kind 'poem'; valid: shapes)"):
        read_result(tmp_path / "other.json")


def test_the_page_names_machine_versions_date_and_command(tmp_path):
    paths = []
    for kind, result in results().items():
        result.write(tmp_path / f"{kind}.json")
        paths.append(tmp_path / f"{kind}.json")
    text = performance_page.write_report(paths, tmp_path).read_text()
    where = "Abacus, 3 cores (beads); torch 9.9; 2026-01-02, load 0.25 before the start: `python tools/benchmark.py`"
    assert text.count(where) == 5
    assert "| a | 10.0 | 7 | 1,234 | 4.00 |" in text
    assert "| a | 1 | 1 | 1 | 6 | 6 |" in text
    assert "### Avx512, batch 1, 1 thread" in text
    assert "* amx: not available here" in text
    assert text.count("64 c N_W / (c N_W + 64)") == 2
    for name in results():
        assert f"](performance/abacus/{name}.png)" in text
        assert image.imread(tmp_path / "performance" / "abacus" / f"{name}.png").shape[2] == 4
    with pytest.raises(ValueError, match="no results to report"):
        performance_page.write_report([], tmp_path)


def on(cpu, *flags, **fields):
    return {**ENVIRONMENT, "cpu": cpu, "flags": flags, **fields}


@pytest.mark.parametrize(
    ("environment", "name", "folder"),
    [
        (on("AMD EPYC", "avx2", "fma", "avx512f"), "AMD EPYC, AVX-512", "amd-epyc-avx-512"),
        (on("AMD EPYC", "avx2", "fma"), "AMD EPYC, AVX2", "amd-epyc-avx2"),
        (
            on("AMD EPYC", "avx2", "avx_vnni", "avx512f"),
            "AMD EPYC, AVX-512 and AVX-VNNI",
            "amd-epyc-avx-512-and-avx-vnni",
        ),
        (
            on("Intel(R) Xeon(R) Processor", "avx_vnni", "avx512f", "amx_int8"),
            "Intel Xeon Processor, AMX",
            "intel-xeon-processor-amx",
        ),
        (on("Neoverse-N1", "asimd"), "Neoverse-N1, NEON", "neoverse-n1-neon"),
        (on("AMD EPYC", "avx2", gpu="Loom 4"), "Loom 4", "loom-4"),
    ],
)
def test_each_processor_has_a_name_and_a_folder(environment, name, folder):
    assert (machine.processor(environment), machine.processor_folder(environment)) == (name, folder)


def test_figures_of_several_processors_stand_beside_each_other(tmp_path, monkeypatch):
    """None replaces another's; measured again on the same one it replaces its own."""
    monkeypatch.setattr(benchmark, "READMES", tmp_path)
    for cpu, time in (("Abacus", 10.0), ("Slide rule", 20.0), ("Abacus", 30.0)):
        result = Result("shapes", on(cpu), 2, {"": [row("a", time=time)]})
        monkeypatch.setattr(benchmark, "run", lambda flags, argv, result=result: result)
        assert benchmark.main(["--keep"]) == 0
    files = sorted(tmp_path.rglob("*.json"))
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        "performance/abacus/shapes.json", "performance/slide-rule/shapes.json"
    ]  # fmt: skip
    text = performance_page.write_report(files, tmp_path).read_text()
    parts = text.split("\n## ")[1:]
    assert [part.splitlines()[0] for part in parts] == ["Abacus", "Slide rule", "On a CUDA device"]
    assert ("| a | 30.0 |" in parts[0], "| a | 20.0 |" in parts[1]) == (True, True)
    assert "](performance/slide-rule/shapes.png)" in parts[1]


def axes_of(result, tmp_path, monkeypatch):
    """The axes of a picture."""
    drawn = []
    monkeypatch.setattr(performance_plots.plt, "close", drawn.append)
    performance_plots.plot(result, tmp_path / "r.png")
    (axes,) = drawn[0].axes
    return axes


@pytest.mark.parametrize("kind", SWEEPS)
def test_a_sweep_has_no_line_of_ours_against_itself(kind, tmp_path, monkeypatch):
    axes = axes_of(results()[kind], tmp_path, monkeypatch)
    labels = [line.get_label() for line in axes.lines]
    assert labels == ["64 c N_W / (c N_W + 64)", "xnorkit, measured against onnxruntime float"]


@pytest.mark.parametrize("kind", ["shapes", "channels"])
def test_a_picture_of_sides_that_did_not_run_is_empty(kind, tmp_path, monkeypatch):
    rows = [Row(next(iter(SWEEPS["channels"])), 1, 1, "openvino_binary", 1000, skipped="not on Tuesdays")]
    axes = axes_of(Result(kind, ENVIRONMENT, 2, {"": rows}), tmp_path, monkeypatch)
    assert not axes.containers
    assert not [line for line in axes.lines if "measured" in line.get_label()]


def test_bars_of_networks_are_speed_ups_over_onnxruntime_float(tmp_path, monkeypatch):
    """The side that ships comes first; the times are 100 / 20 and so on."""
    rows = [
        row("net", side, time=time)
        for side, time in (("xnorkit", 50.0), ("xnorkit_onnx", 20.0), ("ort_float", 100.0), ("torch_float", 400.0))
    ]
    axes = axes_of(Result("networks", ENVIRONMENT, 2, {"": rows}), tmp_path, monkeypatch)
    shown = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}
    assert shown == {"xnorkit in onnxruntime": [5.0], "xnorkit": [2.0], "torch float": [0.25]}
    assert next(iter(shown)) == "xnorkit in onnxruntime"
    assert axes.get_ylabel() == "speed-up over onnxruntime float"


def test_forced_kernels_have_processes_of_their_own(monkeypatch):
    calls = []

    def fake_run(command, env, check, stdout):
        calls.append((env["XNORKIT_KERNEL"], command[command.index("--side") + 1 : command.index("--shape")], env))
        inner = Result("shapes", ENVIRONMENT, 4, {"": [row(detail_of(env))]})
        inner.write(Path(command[command.index("--json") + 1]))

    def detail_of(env):
        return f"run with {env['XNORKIT_KERNEL']}"

    monkeypatch.setattr(forced.subprocess, "run", fake_run)
    monkeypatch.setattr(forced.kernels, "available_kernels", lambda: ["reference", "scalar", "avx2", "avx512bw"])
    result = Result("kernels", ENVIRONMENT, 4)
    forced.measure_forced(result, ["a"])
    on_bits = "bits in and int32 out"
    assert list(result.groups) == ["scalar", "avx2", f"avx2, {on_bits}", "avx512bw", f"avx512bw, {on_bits}"]
    assert list(result.missing) == ["avx512", "amx", "neon"]
    assert set(result.missing.values()) == {"not available here"}
    assert [(kernel, sides) for kernel, sides, _ in calls] == [
        ("scalar", ["xnorkit", "torch_float"]),
        ("avx2", ["xnorkit", "torch_float"]),
        ("avx2", ["xnorkit_bits", "limit_avx2"]),
        ("avx512bw", ["xnorkit", "torch_float"]),
        ("avx512bw", ["xnorkit_bits", "limit_avx512bw"]),
    ]
    for kernel, _, env in calls:
        held = env.items() >= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}.items()
        assert held == (kernel == "avx2")


def test_the_page_in_the_project_is_what_its_figures_give():
    results = [read_result(path) for path in performance_page.FOLDER.rglob("*.json")]
    text = (performance_page.READMES / "performance.md").read_text()
    assert text == performance_page.page(results), "run python tools/benchmark.py --report"
    for result in results:
        assert (performance_page.READMES / performance_page.kept_path(result)).with_suffix(".png").exists()
