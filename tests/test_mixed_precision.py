"""quantize.search and tools/search.py: against all assignments one by one, and from a checkpoint to the trainer."""

import itertools
import json
import random
import shlex

import pytest
import torch
from tiny_runs import tiny_flags, train
from torch import nn

import quantize
import trainer_exp
from tools import search as tool
from training.evaluation import open_checkpoint

SCHEMES = ("xnor", "dorefa", "int8")
WIDTHS = (24, 16, 40, 8, 5)


@pytest.fixture
def net():
    pairs = itertools.pairwise(WIDTHS)
    return nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU()))).eval()


def schemes_of(model):
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return tuple(str(m.scheme) if isinstance(m, quantize.BinaryLayer) else None for m in layers)


def additive(drops):
    """A score that falls by what each layer's scheme costs."""
    return lambda model: 100.0 - sum(drops[place, scheme] for place, scheme in enumerate(schemes_of(model)))


def random_drops(seed):
    draw = random.Random(seed)
    prices = {None: (0, 0), "int8": (-0.05, 0.3), "dorefa": (0, 3), "xnor": (0, 5)}
    return {(place, scheme): draw.uniform(*prices[scheme]) for place in range(len(WIDTHS) - 1) for scheme in prices}


def bytes_of(net, assignment):
    """What summary says of a network that was prepared so, which counts biases too."""
    names = [name for name, m in net.named_modules() if isinstance(m, nn.Linear)]
    overrides = dict(zip(names, assignment, strict=True))
    if all(scheme is None for scheme in assignment):
        return quantize.summary(net, torch.randn(1, WIDTHS[0])).packed_bytes
    prepared = quantize.prepare(net, None, torch.randn(9, WIDTHS[0]), keep_float=(), overrides=overrides)
    rows = quantize.summary(prepared, torch.randn(1, WIDTHS[0])).packed_bytes
    thresholds = (m.threshold for m in prepared.modules() if isinstance(m, quantize.BinaryLayer))
    return rows - sum(4 * t.numel() for t in thresholds if t is not None)


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_assignments_is_a_step_away_at_most(net, seed):
    drops, max_drop = random_drops(seed), (0.0, 0.3, 1.0, 2.0, 4.0, 50.0)[seed]
    evaluate = additive(drops)
    found = quantize.search(net, evaluate, torch.randn(9, WIDTHS[0]), max_drop, schemes=SCHEMES)
    assert found.score == evaluate(net)
    assert found.found_score >= found.score - max_drop
    float_bytes = bytes_of(net, (None,) * 4)
    sizes = {a: bytes_of(net, a) for a in itertools.product((None, *SCHEMES), repeat=4)}
    assert found.cost - found.found_cost == float_bytes - sizes[tuple(found.overrides.values())]
    allowed = [a for a in sizes if sum(drops[place] for place in enumerate(a)) <= max_drop]
    best = min(sizes[a] for a in allowed)
    largest_layer = max(a * b for a, b in itertools.pairwise(WIDTHS)) * 4
    assert best <= sizes[tuple(found.overrides.values())] <= best + largest_layer


def test_overrides_prepare_what_was_measured(net):
    scores = {}

    def evaluate(model):
        scores[schemes_of(model)] = score = 100 - float(sum(s == "xnor" for s in schemes_of(model)))
        return score

    found = quantize.search(net, evaluate, torch.randn(9, WIDTHS[0]), 2.0, schemes=("xnor",))
    prepared = quantize.prepare(net, None, torch.randn(9, WIDTHS[0]), overrides=found.overrides)
    assert scores[schemes_of(prepared)] == found.found_score == 98
    # The two largest, each of which saves most for its point.
    assert [c.layer for c in found.choices if c.chosen.scheme] == ["0", "2"]


def test_the_model_and_the_random_numbers_stay(net):
    before, modules = {k: v.clone() for k, v in net.state_dict().items()}, list(net.modules())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    quantize.search(net, lambda model: 1.0, torch.randn(9, 24, generator=torch.Generator()), calibration=None)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert list(net.modules()) == modules


def test_layers_that_are_binary_stay_as_they_were_trained():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    x = torch.randn(8, 3, 8, 8)
    prepared = quantize.prepare(net, "xnor", x)
    modes = []

    def evaluate(model):
        modes.extend(module.training for module in model.modules())
        return 0.0

    found = quantize.search(prepared, evaluate, x, 0.0, schemes=("int8", "dorefa:w_bits=8,a_bits=8"), calibration=[x])
    assert found.overrides == {"0": "dorefa:w_bits=8,a_bits=8", "2": "xnor", "4": "dorefa:w_bits=8,a_bits=8"}
    assert not any(modes)
    assert [len(c.options) for c in found.choices] == [3, 1, 3]


def test_calibration_sets_the_statistics_of_each_network():
    net = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    batches = [torch.randn(64, 16) for _ in range(3)]
    seen = []

    def evaluate(model):
        with torch.no_grad():
            means = torch.stack([model[0](batch).mean(0) for batch in batches]).mean(0)
        seen.append(torch.allclose(model[1].running_mean, means, atol=1e-6))
        return 0.0

    quantize.search(net, evaluate, batches[0], schemes=("xnor",), calibration=batches)
    assert len(seen) >= 3
    assert all(seen)


def test_latency_takes_only_what_is_faster_here(monkeypatch):
    """Times are made up, by the class of the layer that is called: a 1-bit convolution takes 1, a float one 5."""
    from quantize.mixed_precision import costs

    def cost_of(function):
        with torch.no_grad():
            assert torch.isfinite(function()).all()
        layer = function.func
        if isinstance(layer, quantize.PackedLayer):
            return 1.0
        return 5.0 if type(layer) in (nn.Conv2d, nn.Linear) else 7.0

    monkeypatch.setattr(costs, "_median_times", lambda forms: {scheme: cost_of(f) for scheme, f in forms.items()})
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Tanh(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 4))
    x = torch.randn(2, 3, 5, 5)
    found = quantize.search(net, lambda model: 0.0, x, objective="latency", schemes=("xnor", "int8"))
    assert found.overrides == {"0": "xnor", "2": "xnor", "4": "xnor"}
    assert [o.scheme for o in found.choices[0].options] == [None, "xnor"]  # int8 expands: slower than float
    assert (found.cost, found.found_cost) == (15, 3)
    assert "latency of these layers 15,000,000 -> 3,000,000 us" in str(found)


def test_latencies_are_measured_on_what_each_layer_gets():
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Tanh(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(64, 4))
    x = torch.randn(2, 3, 5, 5)
    found = quantize.search(net, lambda model: 0.0, x, objective="latency", schemes=("xnor",))
    for choice in found.choices:
        assert all(0 < option.cost < 1 for option in choice.options)
        assert all(option.cost < choice.options[0].cost for option in choice.options[1:])


def test_attention_can_be_searched():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(self.attention(x, x, x)[0].mean(1))

    net, x = Attention(), torch.randn(4, 5, 16)
    found = quantize.search(net, lambda model: float(torch.isfinite(model(x)).all()), x, schemes=("int8",))
    assert set(found.overrides.values()) == {"int8"}
    quantize.prepare(net, None, x, keep_float=(), overrides=found.overrides)(x)


REFUSED = {
    "a negative drop": ({"max_drop": -1.0}, "max_drop is -1.0; it must be a number from 0 up"),
    "no number": ({"max_drop": float("nan")}, "max_drop is nan"),
    "an objective": ({"objective": "speed"}, "unknown objective 'speed': "),
    "a scheme": ({"schemes": ("xnr",)}, "unknown scheme 'xnr'"),
    "no scheme": ({"schemes": ()}, "schemes is empty; name what layers may become"),
    "a score": ({"evaluate": lambda model: float("nan")}, "evaluate returned nan; it must return a finite number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_searched_is_refused(net, case):
    changed, message = REFUSED[case]
    arguments = {"evaluate": lambda model: 1.0, "example_input": torch.randn(9, 24), **changed}
    with pytest.raises(ValueError, match=message):
        quantize.search(net, **arguments)


# From a checkpoint to the trainer.


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "binary"
    train(path, epochs=2, batch_size=16)
    return path


def test_the_trainer_takes_what_the_tool_wrote(run_dir, tmp_path, capsys):
    file = tmp_path / "mixed.json"
    arguments = ["--count", "100", "--calibrate", "2", "--max-drop", "100", "--gpu", "", "--json", str(file)]
    assert tool.main([str(run_dir), *arguments]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(last) == ["--override", str(file)]
    overrides = json.loads(file.read_text())["overrides"]
    assert overrides.keys() == {"0", "2", "5", "9"}
    assert set(overrides.values()) <= {"xnor", "dorefa"}  # any drop is allowed, and all others are larger
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in tiny_flags(tmp_path / "mixed", epochs=1).items()]
    assert trainer_exp.main([*flags, "--override", str(file)]) == 0
    net, *_ = open_checkpoint(tmp_path / "mixed" / "best.pt", {"gpu": ""})
    assert {n: str(m.scheme) for n, m in net.named_modules() if isinstance(m, quantize.BinaryLayer)} == overrides


BAD_FILES = {
    "absent": (None, "cannot be read"),
    "no JSON": ("{", "cannot be read"),
    "a list": ("[]", 'has no "overrides"'),
    "numbers": ('{"overrides": {"a": 1}}', 'has no "overrides"'),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_without_overrides_is_refused(case, tmp_path, capsys):
    content, message = BAD_FILES[case]
    file = tmp_path / "mixed.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        trainer_exp.main(["--dataset", "digits", "--override", str(file)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_tool_refuses_before_it_measures(run_dir, tmp_path, capsys):
    for arguments, message in (
        (["--calibrate", "0"], "--calibrate is 0"),
        (["--json", str(tmp_path / "none" / "mixed.json")], "there is no directory"),
        (["--objective", "speed"], "unknown objective 'speed'"),
    ):
        assert tool.main([str(run_dir), "--gpu", "", *arguments]) == 2
        assert message in capsys.readouterr().err
