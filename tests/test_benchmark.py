"""tools/benchmark.py: turns, figures, refusals, and what is written; no assertion on a real time."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image

from tools import benchmark
from tools.benchmarking import forced, limit, measure, memory, report, tables, timing
from tools.benchmarking.cases import SHAPES, SWEEPS, ConvCase, papers_speedup
from tools.benchmarking.machine import load_warning
from tools.benchmarking.measure import Row
from tools.benchmarking.networks import NetworkCase, settle
from tools.benchmarking.registry import CONV_SIDES, NETWORK_SIDES
from tools.benchmarking.result import Result, read_result
from tools.benchmarking.sides import Built, Side, Unavailable, WrongNumbers
from tools.benchmarking.timing import Contestant, Timer, turns

TINY = ConvCase(5, 3, 3, 4)


class FakeMachine:
    """A clock that only contestants move on, and a log of who ran."""

    def __init__(self):
        self.now, self.slowness, self.interrupted = 0.0, 1.0, 0
        self.log, self.slept = [], []

    def contestant(self, name, seconds, threads=1, interrupts=lambda call: False):
        calls = iter(range(10**6))

        def run():
            self.log.append((name, torch.get_num_threads()))
            hit = interrupts(next(calls))
            self.interrupted += hit
            self.now += seconds * self.slowness * (10 if hit else 1)

        return Contestant(name, threads, run)

    def timer(self, rounds):
        return Timer(rounds, lambda: self.now, self.slept.append, lambda: self.interrupted)


def test_every_round_has_each_side_once_and_no_side_keeps_its_place():
    order = [turns(4, index) for index in range(8)]
    assert all(sorted(turn) == [0, 1, 2, 3] for turn in order)
    assert {turn[0] for turn in order} == {turn[-1] for turn in order} == {0, 1, 2, 3}
    followers = {pair for turn in order for pair in zip(turn, turn[1:], strict=False)}
    assert {(0, 1), (1, 0), (2, 3), (3, 2)} <= followers  # nobody always runs behind the same one


def test_sides_take_turns_after_a_warm_up():
    machine = FakeMachine()
    fast, slow = machine.contestant("fast", 0.002), machine.contestant("slow", 0.02)
    times = machine.timer(2).measure([fast, slow])
    turn_of_fast = ["fast"] * (1 + 3)  # one to warm up, three of 2 ms fill 5 ms
    warm_up = ["fast"] * timing.WARM_UP_CALLS + ["slow"] * timing.WARM_UP_CALLS
    assert [name for name, _ in machine.log] == [*warm_up, *turn_of_fast, "slow", "slow", "slow", "slow", *turn_of_fast]
    assert [len(turn) for turn in times[0].rounds] == [3, 3]
    assert [len(turn) for turn in times[1].rounds] == [1, 1]
    assert times[0].median == pytest.approx(0.002)
    assert times[1].ratio(times[0]) == pytest.approx(10)


def test_ratios_are_of_the_same_round():
    """A machine that becomes slower between rounds changes medians, not ratios."""
    ours = timing.Times([[1.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    theirs = timing.Times([[3.0], [15.0], [27.0]])
    assert theirs.ratio(ours) == 3
    assert ours.median == 5
    assert timing.Times([[], [15.0], []]).ratio(ours) == 3  # what was interrupted throughout
    assert timing.Times([[], [], [3.0]]).ratio(timing.Times([[1.0], [1.0], []])) == 3
    assert timing.Times([[4.0, 1.0], [3.0, 2.0, 5.0]]).quantile(0.8) == 4
    assert timing.Times([[4.0, 1.0], [3.0, 2.0, 5.0]]).quantile(0.95) == 5


def test_interrupted_calls_do_not_count():
    machine = FakeMachine()
    often = machine.contestant("often", 0.002, interrupts=lambda call: call % 2)
    always = machine.contestant("always", 0.002, interrupts=lambda call: True)
    once = machine.contestant("first round", 0.05, interrupts=lambda call: 3 < call < 8)
    often_times, always_times, once_times = machine.timer(3).measure([often, always, once])
    assert often_times.calls == pytest.approx([0.002] * 9)
    assert often_times.interrupted >= 6
    assert set(np.round(always_times.calls, 6)) == {0.02}  # nothing else is known of it
    assert always_times.interrupted == len(always_times.calls)
    assert once_times.rounds[0] == []
    assert once_times.calls == pytest.approx([0.05] * 2)


def test_threads_are_set_for_each_turn_and_given_back():
    machine = FakeMachine()
    before = torch.get_num_threads()
    assert gc.isenabled()
    machine.timer(2).measure([machine.contestant("one", 1, 1), machine.contestant("three", 1, 3)])
    assert set(machine.log) == {("one", 1), ("three", 3)}
    assert torch.get_num_threads() == before
    assert machine.slept == [timing.SETTLE_SECONDS] * 2  # their pools spin after turns with several threads
    assert gc.isenabled()


def side_giving(name, answer, **fields) -> Side:
    return Side(name, name.title(), lambda problem, threads: Built(lambda: answer(problem)), **fields)


def unavailable(problem, threads):
    raise Unavailable("not on Tuesdays")


def test_rows_hold_times_ratios_and_reasons(monkeypatch):
    sides = [side_giving("ours", lambda p: p.expected), side_giving("theirs", lambda p: p.expected.numpy())]
    sides.append(Side("none", "None", unavailable))

    def fake_measure(contestants):
        assert [(c.name, c.threads) for c in contestants] == [("ours", 1), ("theirs", 1), ("ours", 2), ("theirs", 2)]
        return [timing.Times([[s], [s]]) for s in (1e-3, 4e-3, 1e-4, 6e-4)]

    timer = Timer(2)
    monkeypatch.setattr(timer, "measure", fake_measure)
    rows = measure.measure(TINY, sides, 2, [1, 2], timer)
    assert [(r.side, r.threads, r.median_us, r.ratio, r.skipped) for r in rows] == [
        ("ours", 1, 1000, 1, None), ("theirs", 1, 4000, 4, None), ("none", 1, None, None, "not on Tuesdays"),
        ("ours", 2, 100, 1, None), ("theirs", 2, 600, 6, None), ("none", 2, None, None, "not on Tuesdays"),
    ]  # fmt: skip
    assert rows[0].macs == 2 * 5 * 3 * 9 * 16
    assert rows[0].gmacs == round(2 * 5 * 3 * 9 * 16 / 1e6, 1)


def one_wrong(problem):
    answer = problem.expected.clone()
    answer[0, 0, 0, 0] += 2
    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (one_wrong, "bad computes wrong numbers: they differ by up to 2"),
        (lambda p: p.expected * float("nan"), "bad computes wrong numbers"),
        (lambda p: p.expected[:, :1], r"bad gives shape \(1, 1, 4, 4\), not \(1, 3, 4, 4\)"),
    ],
)
def test_a_side_with_wrong_numbers_is_refused(answer, message):
    with pytest.raises(WrongNumbers, match=message):
        measure.measure(TINY, [side_giving("bad", answer)], 1, [1], Timer(1))


@pytest.mark.parametrize("name", CONV_SIDES)
@pytest.mark.parametrize("sizes", [(8, 3, 3, 4), (96, 17, 5, 6), (64, 64, 1, 5)], ids=str)
def test_sides_compute_the_convolution(name, sizes):
    """Also the exact 8-bit rounding of int8: the answer here is in float64 and tap by tap."""
    side, case = CONV_SIDES[name], ConvCase(*sizes)
    problem = case.problem(2)
    padded = np.pad(problem.x.double().numpy(), ((0, 0), (0, 0), (case.padding,) * 2, (case.padding,) * 2))
    sums = np.zeros((2, case.out_channels, case.size, case.size))
    for y in range(case.kernel):
        for x in range(case.kernel):
            window = padded[:, :, y : y + case.size, x : x + case.size]
            sums += np.einsum("nchw,oc->nohw", window, problem.weight[:, :, y, x].double().numpy())
    try:
        built = side.build(problem, 1)
    except Unavailable as reason:
        pytest.skip(str(reason))
    answer = np.asarray(built.run())
    side.verify(problem, answer)
    if name == "limit":
        return
    if name == "ort_int8":
        sums = np.clip(np.round(sums / 4), -128, 127) * 4
    np.testing.assert_array_equal(answer, sums)


@pytest.fixture(scope="module")
def lenet():
    return NetworkCase("lenet5_xnornet")


@pytest.mark.parametrize("name", NETWORK_SIDES)
def test_sides_compute_the_network(lenet, name):
    """Of int8, another network: that it is nearer to the float one than zeros are."""
    problem, side = lenet.problem(3), NETWORK_SIDES[name]
    answer = np.asarray(side.build(problem, 1).run())
    side.verify(problem, answer)
    with pytest.raises(WrongNumbers):
        side.verify(problem, -answer)
    with pytest.raises(WrongNumbers):
        side.verify(problem, answer * 0)
    assert lenet.macs(3) == 3 * lenet.macs(1) > 3 * 2_290_000  # 2.293 million, and what ptflops adds


def test_networks_without_a_scheme_are_refused():
    with pytest.raises(ValueError, match="network 'lenet5' is a float one; name it with a scheme: lenet5_xnornet"):
        NetworkCase("lenet5")


def test_settled_networks_keep_their_activations():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    x = torch.randn(8, 3, 9, 9) * 100 + 50
    y = settle(network, x)(x)
    assert not network.training
    assert network[1].momentum == 0.1
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(4), atol=0.01, rtol=0)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="the system does not tell the peak of memory")
def test_memory_of_a_known_size(tmp_path):
    """8 MB of weights, and an output of 16 MB."""
    torch.save(torch.nn.Linear(100, 20_000, bias=False), tmp_path / "model.pt")
    torch.save(torch.zeros(200, 100), tmp_path / "batch.pt")
    found = memory._in_a_process([tmp_path / "model.pt"], tmp_path / "batch.pt")
    assert 7.9e6 < found["model"] < 10e6
    assert 15.9e6 < found["forward"] < 30e6


def test_memory_in_kilobytes():
    sizes = {"stored": 5000, "model": 3000, "forward": 2_000_000}
    header, lines = tables.memory([{"case": "net", "batch": 2, "float": sizes, "packed": {**sizes, "stored": 1000}}])
    assert header == ["case", "batch", "stored, float kB", "stored, packed kB", "peak, float kB", "peak, packed kB"]
    assert lines == [["net", "2", "5", "1", "2,003", "2,003"]]


def test_the_limit_refuses_other_machines_and_missing_compilers(monkeypatch):
    problem = TINY.problem(1)
    with pytest.raises(Unavailable, match="one thread"):
        limit.build_limit(problem, 2)
    limit._loop.cache_clear()
    monkeypatch.setattr(limit, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(Unavailable, match="no AVX-512 popcount"):
        limit.build_limit(problem, 1)
    monkeypatch.setattr(limit, "cpu_flags", lambda: frozenset(limit.NEEDED))
    monkeypatch.setattr(limit.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="no C\\+\\+ compiler"):
        limit.build_limit(problem, 1)


def test_the_papers_formula():
    assert papers_speedup(ConvCase(256, 256, 3, 14)) == pytest.approx(62.27, abs=0.01)  # section 4.1 of the paper
    assert papers_speedup(ConvCase(64, 1, 1, 1)) == 32
    assert [c.channels for c in SWEEPS["channels"].values()] == [2**i for i in range(11)]
    assert [c.kernel for c in SWEEPS["kernel"].values()] == [1, 3, 5, 7, 9, 11]


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
    text = report.write_report(paths, tmp_path).read_text()
    where = "Abacus, 3 cores (beads); torch 9.9; 2026-01-02, load 0.25 before the start: `python tools/benchmark.py`"
    assert text.count(where) == 5
    assert "| a | 10.0 | 7 | 1,234 | 4.00 |" in text
    assert "| a | 1 | 1 | 1 | 6 | 6 |" in text
    assert "### Avx512, batch 1, 1 thread" in text
    assert "* amx: not available here" in text
    assert text.count("64 c N_W / (c N_W + 64)") == 2
    for name in results():
        assert f"images/performance_{name}.png" in text
        assert image.imread(tmp_path / "images" / f"performance_{name}.png").shape[2] == 4
    with pytest.raises(ValueError, match="no results to report"):
        report.write_report([], tmp_path)


def test_forced_kernels_have_processes_of_their_own(monkeypatch):
    calls = {}

    def fake_run(command, env, check, stdout):
        calls[env["XNORKIT_KERNEL"]] = (command, env)
        inner = Result("shapes", ENVIRONMENT, 4, {"": [row(detail_of(env))]})
        inner.write(Path(command[command.index("--json") + 1]))

    def detail_of(env):
        return f"run with {env['XNORKIT_KERNEL']}"

    monkeypatch.setattr(forced.subprocess, "run", fake_run)
    monkeypatch.setattr(forced.kernels, "available_kernels", lambda: ["reference", "scalar", "avx2", "avx512"])
    result = Result("kernels", ENVIRONMENT, 4)
    forced.measure_forced(result, ["a"])
    assert list(calls) == list(result.groups) == ["scalar", "avx2", "avx512"]
    assert result.missing == {"amx": "not available here", "neon": "not available here"}
    command, env = calls["avx2"]
    assert env.items() >= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}.items()
    assert command[command.index("--side") :][:3] == ["--side", "xnorkit", "torch_float"]
    assert "limit" in calls["avx512"][0]
    assert "ATEN_CPU_CAPABILITY" not in calls["avx512"][1]


def test_a_busy_machine_is_reported():
    assert load_warning(0.1) is None
    assert "load of this machine is 1.50" in load_warning(1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "256-256-3x3-14x15"], "unknown shape '256-256-3x3-14x15': did you mean '256-256-3x3-14x14'"),
        (["--network", "lenet_xnornet"], "unknown network 'lenet_xnornet': did you mean 'lenet5_xnornet'"),
        (["--network", "lenet5_xnornet", "--side", "limit"], "unknown side 'limit'"),
        (["--side", "ort_flat"], "unknown side 'ort_flat': did you mean 'ort_float'"),
        (["--report", "none.json"], "none.json"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_wrong_numbers_fail_the_benchmark(monkeypatch, capsys):
    monkeypatch.setitem(CONV_SIDES, "ort_int8", side_giving("ort_int8", one_wrong))
    flags = ["--shape", "192-192-3x3-8x8", "--side", "ort_int8", "--batch", "1", "--threads", "1", "--rounds", "1"]
    assert benchmark.main(flags) == 1
    assert "ort_int8 computes wrong numbers" in capsys.readouterr().err


def test_a_real_run(tmp_path, capsys):
    flags = [
        "--shape",
        "192-192-3x3-8x8",
        "--side",
        "xnorkit",
        "torch_float",
        "--batch",
        "1",
        "--threads",
        "1",
        "--rounds",
        "2",
    ]
    assert benchmark.main([*flags, "--json", str(tmp_path / "r.json"), "--plot", str(tmp_path / "r.png")]) == 0
    out = capsys.readouterr().out
    assert "batch 1, 1 thread\ncase" in out
    assert "192-192-3x3-8x8" in out
    result = read_result(tmp_path / "r.json")
    rows = result.groups[""]
    assert [r.side for r in rows] == ["xnorkit", "torch_float"]
    assert all(0 < r.min_us <= r.median_us <= r.p95_us for r in rows)
    assert rows[0].ratio == 1
    assert rows[0].macs == SHAPES["192-192-3x3-8x8"].macs(1) == 192 * 192 * 9 * 64
    assert result.environment["command"].startswith("python tools/benchmark.py --shape 192-192-3x3-8x8 --side")
    assert set(result.environment) >= set(ENVIRONMENT)
    assert image.imread(tmp_path / "r.png").any()
