"""tools/sensitivity.py: against a network computed in numpy, and from a checkpoint to the flag."""

import json
import shlex

import numpy as np
import pytest
import torch
from tiny_runs import tiny_flags, train
from torch import nn

import quantize
import training
from tools import sensitivity
from training.config import parse_flags
from training.data import MemoryLoader, Normalization

PLAIN = Normalization((0.0,), (1.0,))
COUNT, CLASSES = 240, 3


@pytest.fixture
def model():
    layers = nn.Linear(36, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, CLASSES)
    norm = layers[1]
    norm.running_mean.normal_()  # statistics of a long training, which must not count
    norm.num_batches_tracked.fill_(1000)
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.fixture
def loader():
    images = torch.randint(256, (COUNT, 1, 6, 6), dtype=torch.uint8)
    return MemoryLoader(images, torch.arange(COUNT) * CLASSES // COUNT, 50, PLAIN)  # sorted by class


@pytest.fixture
def calibration(loader):
    return list(loader)[:3]


def accuracy_in_numpy(model, first, second, calibration, test):
    """Top-1 in percent with weights (first, second) of the linear layers, statistics from the calibration batches."""
    bias, last_bias = (model[i].bias.detach().double().numpy() for i in (1, 5))

    def hidden(images):
        return images.flatten(1).double().numpy() @ first.T + bias

    batches = [hidden(images) for images, _ in calibration]
    mean = np.mean([batch.mean(0) for batch in batches], 0)
    var = np.mean([batch.var(0, ddof=1) for batch in batches], 0)
    right = 0
    for images, labels in test:
        y = np.maximum((hidden(images) - mean) / np.sqrt(var + model[2].eps), 0) @ second.T + last_bias
        right += int((y.argmax(1) == labels.numpy()).sum())
    return 100 * right / COUNT


def in_numpy(model):
    """The linear weights, and what bwn makes of them: the sign times the filter's mean magnitude."""
    weights = [model[i].weight.detach().double().numpy() for i in (1, 5)]
    return weights, [np.where(w >= 0, 1, -1) * np.abs(w).mean(1, keepdims=True) for w in weights]


def test_each_layer_of_a_float_network_alone_becomes_binary(model, loader, calibration):
    found = sensitivity.measure(model, "bwn", calibration, sensitivity.Sample(loader, COUNT))
    (w1, w2), (b1, b2) = in_numpy(model)
    expected = [accuracy_in_numpy(model, *pair, calibration, loader) for pair in ((w1, w2), (b1, w2), (w1, b2))]
    assert [found.accuracy, *(c.accuracy for c in found.changes)] == pytest.approx(expected)
    assert [(c.layer, c.now, c.changed_to) for c in found.changes] == [("1", "float", "bwn"), ("5", "float", "bwn")]
    assert [c.difference for c in found.changes] == pytest.approx([e - expected[0] for e in expected[1:]])
    assert [c.cost for c in found.changes] == [-c.difference for c in found.changes]
    assert len(set(expected)) == 3
    assert found.not_changed == {}


def test_a_binary_layer_alone_is_restored_and_a_float_one_alone_becomes_binary(model, loader, calibration):
    prepared = quantize.prepare(model, "bwn", keep_float=("last",))
    found = sensitivity.measure(prepared, "bwn", calibration, sensitivity.Sample(loader, COUNT))
    (w1, w2), (b1, b2) = in_numpy(model)
    expected = [accuracy_in_numpy(model, *pair, calibration, loader) for pair in ((b1, w2), (w1, w2), (b1, b2))]
    assert [found.accuracy, *(c.accuracy for c in found.changes)] == pytest.approx(expected)
    assert [(c.layer, c.now, c.changed_to) for c in found.changes] == [("1", "bwn", "float"), ("5", "float", "bwn")]
    restored, made_binary = found.changes
    assert restored.cost == restored.difference == pytest.approx(expected[1] - expected[0])
    assert made_binary.cost == -made_binary.difference


def test_stored_statistics_are_reported_beside_the_estimated_ones(model, loader, calibration):
    model[2].running_mean.fill_(1e4)  # every unit off: all images get the same class
    found = sensitivity.measure(model, "bwn", calibration, sensitivity.Sample(loader, COUNT))
    assert found.stored_accuracy == pytest.approx(100 / CLASSES)
    assert found.accuracy != found.stored_accuracy


@pytest.mark.parametrize("prepared", [False, True])
def test_the_model_is_left_as_it_was(model, loader, calibration, prepared):
    if prepared:
        model = quantize.prepare(model, "irnet", keep_float=("first",))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = [(name, type(module)) for name, module in model.named_modules()]
    random_state = torch.get_rng_state()
    sensitivity.measure(model, "xnor", calibration, sensitivity.Sample(loader, COUNT))
    assert [(name, type(module)) for name, module in model.named_modules()] == layers
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert model[2].momentum == 0.1
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_layer_behind_relu_gets_its_threshold_from_the_first_batch(model, calibration):
    rows = sensitivity.binary_rows(model, "bnn", calibration[0][0], keep_float=())
    changed, _, _ = sensitivity.change(model, rows["5"])
    modes = []
    changed[5].register_forward_pre_hook(lambda layer, _: modes.append(layer.training))
    sensitivity.estimate_statistics(changed, calibration)
    hidden = nn.functional.batch_norm(model[1](calibration[0][0].flatten(1)), None, None, training=True).relu()
    torch.testing.assert_close(changed[5].threshold.data, hidden.mean(0).data)
    assert modes == [True, False, False]  # in training for the one batch that it asks for
    assert not any(module.training for module in changed.modules())


def test_weights_that_no_layer_uses_are_named_with_the_reason(loader, calibration):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 1, batch_first=True, add_bias_kv=True)
            self.fc = nn.Linear(36, CLASSES)

        def forward(self, x):
            x = x.flatten(1, 2)
            return self.fc(self.attention(x, x, x)[0].flatten(1))

    found = sensitivity.measure(Attention(), "xnor", calibration, sensitivity.Sample(loader, COUNT))
    assert [c.layer for c in found.changes] == ["fc"]
    assert found.not_changed.keys() == {"attention.in_proj_weight", "attention.out_proj"}
    assert "not changed: attention.out_proj: nn.MultiheadAttention uses its weight" in sensitivity.table(found)


def test_a_sample_is_spread_over_a_sorted_set(loader):
    batches = list(sensitivity.Sample(loader, 120))
    assert [len(labels) for _, labels in batches] == [50, 50, 20]
    assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [40, 40, 40]
    everything = torch.cat([images for images, _ in sensitivity.Sample(loader, COUNT)])
    assert torch.equal(everything, torch.cat([images for images, _ in loader]))


def test_costly_layers():
    changes = [
        sensitivity.Change("a", "xnor", "float", 95.0, 5.0),  # better in float: being binary costs
        sensitivity.Change("b", "float", "xnor", 70.0, -20.0),
        sensitivity.Change("c", "float", "xnor", 89.5, -0.5),
        sensitivity.Change("d", "xnor", "float", 80.0, -10.0),  # worse in float
    ]
    found = sensitivity.Sensitivity(90.0, 90.0, changes, {})
    assert found.costly(1) == ["a", "b"]
    assert found.costly(0.4) == ["a", "b", "c"]
    assert found.costly(-20) == ["a", "b", "c", "d"]


# From a checkpoint to the flag.


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A binary run: layers 0 and 9 float, 2 and 5 binary."""
    path = tmp_path_factory.mktemp("runs") / "binary"
    train(path, epochs=2, batch_size=16)
    return path


def test_the_last_line_can_be_trained_with(run_dir, tmp_path, capsys):
    files = {"plot": tmp_path / "cost.png", "json": tmp_path / "cost.json"}
    arguments = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert sensitivity.main([str(run_dir), "--count", "200", "--limit", "-100", "--gpu", "", *arguments]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "--keep-float first last 2 5"
    found = {line.split()[0]: line.split()[1:3] for line in lines if line[:1].isdigit()}
    assert found == {"0": ["float", "xnor"], "2": ["xnor", "float"], "5": ["xnor", "float"], "9": ["float", "xnor"]}
    report = json.loads(files["json"].read_text())
    assert [c["layer"] for c in report["changes"]] == ["0", "2", "5", "9"]
    assert report["keep_float"] == shlex.split(last)[1:]
    assert report["images"] == 200
    picture = files["plot"].read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000


def test_a_limit_that_one_image_exceeds_is_said(run_dir, capsys):
    for count, expected in (
        (50, ["Warning: one of 50 test images is 2 points, above --limit; test on more of them"]),
        (100, []),
    ):
        assert sensitivity.main([str(run_dir), "--count", str(count), "--calibrate", "1", "--gpu", ""]) == 0
        assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")] == expected


def test_a_float_checkpoint_suggests_layers_that_training_keeps_float(tmp_path, capsys):
    train(tmp_path / "float", epochs=1, scheme="none")
    assert sensitivity.main([str(tmp_path / "float"), "--scheme", "bwn", "--limit", "-100", "--gpu", ""]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "--keep-float first last 2 5"
    flags = parse_flags(shlex.split(last)[:-1])  # all of them would leave nothing to binarize
    session = training.setup(training.config_from_flags(tiny_flags(tmp_path / "next", **flags)))
    assert session.plan.binary == ["5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheme", "xnr"], "unknown scheme 'xnr'"),
        (["--count", "0"], "--count is 0; it must be from 1 to the 355 test images"),
        (["--count", "356"], "--count is 356; it must be from 1 to the 355 test images"),
        (["--calibrate", "0"], "--calibrate is 0; it must be at least 1 batch"),
        (["--plot", "cost.txt"], "--plot 'cost.txt' must end in .png"),
        (["--json", "no/cost.json"], "there is no directory 'no'"),
        (["--dataset", "digts"], "unknown dataset 'digts'"),
        (["--gpu", "77"], "there is no GPU '77'"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(run_dir, arguments, message, capsys):
    assert sensitivity.main([str(run_dir), "--gpu", "", *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_a_missing_checkpoint(tmp_path, capsys):
    assert sensitivity.main([str(tmp_path / "none")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
