"""tools/benchmark.py: sides, figures, refusals and a real run; no assertion on a real time."""

import numpy as np
import pytest
import torch
from matplotlib import image
from torch import nn

from quantize.binary.quantized_layer import QuantizedLayer
from tools import benchmark
from tools.benchmarking import measure, timing
from tools.benchmarking.cases import SHAPES, SWEEPS, ConvCase, papers_speedup
from tools.benchmarking.known_sides import CONV_SIDES, NETWORK_SIDES
from tools.benchmarking.machine import load_warning
from tools.benchmarking.result import read_result
from tools.benchmarking.side import Built, Side, Unavailable, WrongNumbers
from tools.benchmarking.sides import layer_cases, limit, resident_memory
from tools.benchmarking.sides.network_sides import NetworkCase, settle
from tools.benchmarking.timing import Timer

TINY = ConvCase(5, 3, 3, 4)


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
    if name in limit.LIMITS:
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


def test_a_deep_network_whose_signs_would_move_is_compared():
    """Of 18 layers at 224 pixels some sign lies so near to its threshold that a folded batch norm moves it."""
    problem = NetworkCase("resnet18_imagenet_bireal").problem(1)
    side = NETWORK_SIDES["xnorkit_onnx"]
    side.verify(problem, side.build(problem, 1).run())
    with torch.inference_mode(), pytest.raises(WrongNumbers):
        side.verify(problem, problem.binary_model(problem.x))


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


@pytest.mark.skipif(not resident_memory.STATUS.exists(), reason="the system does not tell the peak of memory")
def test_memory_of_a_known_size(tmp_path):
    """8 MB of weights, and an output of 16 MB."""
    torch.save(torch.nn.Linear(100, 20_000, bias=False), tmp_path / "model.pt")
    torch.save(torch.zeros(200, 100), tmp_path / "batch.pt")
    found = resident_memory._in_a_process([tmp_path / "model.pt"], tmp_path / "batch.pt")
    assert 7.9e6 < found["model"] < 10e6
    assert 15.9e6 < found["forward"] < 30e6


def test_the_limit_refuses_other_machines_and_missing_compilers(monkeypatch):
    problem, side = TINY.problem(1), CONV_SIDES["limit"]
    with pytest.raises(Unavailable, match="one thread"):
        side.build(problem, 2)
    monkeypatch.setattr(limit, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(Unavailable, match="no AVX-512 popcount"):
        side.build(problem, 1)
    monkeypatch.setattr(limit, "cpu_flags", lambda: limit.LIMITS["limit"][1].needed)
    limit._library.cache_clear()
    monkeypatch.setattr(limit.shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="no C\\+\\+ compiler"):
        side.build(problem, 1)


def test_the_papers_formula():
    assert papers_speedup(ConvCase(256, 256, 3, 14)) == pytest.approx(62.27, abs=0.01)  # section 4.1 of the paper
    assert papers_speedup(ConvCase(64, 1, 1, 1)) == 32
    assert [c.channels for c in SWEEPS["channels"].values()] == [2**i for i in range(11)]
    assert [c.kernel for c in SWEEPS["kernel"].values()] == [1, 3, 5, 7, 9, 11]


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
    assert set(result.environment) >= {"command", "date", "cpu", "cores", "flags", "load", "versions"}
    assert image.imread(tmp_path / "r.png").any()


def test_layers_of_every_scheme_are_measured(tmp_path, monkeypatch, capsys):
    tiny = {"tiny": (lambda: nn.Conv2d(64, 32, 3, padding=1), (64, 5, 5)), "flat": (lambda: nn.Linear(70, 9), (70,))}
    monkeypatch.setattr(layer_cases, "LAYERS", tiny)
    chosen = [("tiny", "xnor"), ("tiny", "bwn"), ("flat", layer_cases.SCHEMES[3])]
    monkeypatch.setattr(layer_cases, "CASES", [layer_cases.LayerCase(*case) for case in chosen])
    assert benchmark.main(["--schemes", "--rounds", "1", "--json", str(tmp_path / "schemes.json")]) == 0
    rows = read_result(tmp_path / "schemes.json").groups[""]
    assert {row.case for row in rows} == {" ".join(case) for case in chosen}
    assert {row.side for row in rows} == {"xnorkit", "xnorkit_onnx", "ort_float", "torch_float"}
    assert all(row.median_us and (row.batch, row.threads) == (1, 1) for row in rows)
    assert "flat dorefa:w_bits=2,a_bits=2" in capsys.readouterr().out


def test_layers_that_are_measured_are_what_their_scheme_makes_of_them():
    for layer in layer_cases.LAYERS:
        network, binary = layer_cases.LayerCase(layer, "bwn").networks
        assert isinstance(binary[0], QuantizedLayer)
        assert not torch.equal(network[0].weight, binary[0].quantized_weight()[0])
