"""What a run writes down: lines to read, a log for programs, and how many bits flip."""

import json

import pytest
import torch
from tiny_runs import tiny_flags, train

import quantize
import training
from training.watch.console import progress
from training.watch.health import FlipRates
from training.watch.runlog import RunLog, read_log


def test_the_log_tells_what_was_run_where_and_what_came_out(tmp_path):
    session = train(tmp_path / "run", seed=3)
    run, *epochs, result = read_log(tmp_path / "run")
    assert [entry["kind"] for entry in (run, *epochs, result)] == ["run", "epoch", "epoch", "result"]
    assert run["config"]["seed"] == 3
    assert run["cost"]["parameters"] == sum(p.numel() for p in session.model.parameters())
    assert run["cost"]["binary_macs"] == 16 * 8 * 9 * 16 + 16 * 16 * 9 * 4
    assert run["data"]["train"] == 1442
    assert (run["processes"], run["effective_batch"]) == (1, session.config.batch_size)
    environment = run["environment"]
    assert environment["versions"]["torch"] == str(torch.__version__)
    assert environment["threads"] == torch.get_num_threads()
    assert [entry["epoch"] for entry in epochs] == [1, 2]
    assert set(epochs[0]["train"]) == {"loss", "top1", "images", "seconds", "load_seconds"}
    assert all(entry["peak_memory"]["host"] > 2**20 for entry in epochs)
    assert all(entry["peak_memory"]["device"] is None for entry in epochs)
    tops = [entry["test"]["top1"] for entry in epochs]
    assert result["best_acc1"] == max(tops)
    assert result["best_epoch"] == 1 + tops.index(max(tops))
    assert result["last_acc1"] == tops[-1]
    assert result["checkpoint"] == str(tmp_path / "run" / "best.pt")


def test_epochs_that_are_trained_again_leave_the_log(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write("run", config={})
    for epoch in (1, 2, 3):
        log.write("epoch", epoch=epoch)
    log.write("result", best_acc1=1.0)
    RunLog(tmp_path, 2)
    assert [(entry["kind"], entry.get("epoch")) for entry in read_log(tmp_path)] == [
        ("run", None),
        ("epoch", 1),
        ("epoch", 2),
    ]


def test_lines_for_people(tmp_path, capsys):
    train(tmp_path / "run", epochs=1, lr=0.002)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("==> Computational complexity:  ")
    assert lines[1] == "==> Number of parameters:    4.27 k"
    assert any(line.startswith("==> Binary operations:  27.65 KMac") for line in lines)
    train_line, test_line = (next(line for line in lines if line.startswith(word)) for word in ("Train:", "Test:"))
    for part in ("[1/1]", "loss ", "top-1 ", "lr 0.002", "time ", "load_time "):
        assert part in train_line
    assert "best " in test_line
    assert lines[-2].startswith("best_acc1: ")
    assert lines[-1] == f"checkpoint_path: {tmp_path / 'run' / 'best.pt'}"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_progress_bar_only_on_a_terminal(terminal, capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert list(progress([1, 2], 2, "Train 1")) == [1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("Train 1" in captured.err) == terminal


def test_flips_are_counted_by_sign_with_zero_as_plus():
    layer = quantize.BinaryLinear(4, 1, bias=False, scheme="bnn")
    layer.weight.data = torch.tensor([[0.0, 0.5, -0.5, 0.2]])
    flips = FlipRates(layer)
    assert flips.update() == {"": 0.0}
    layer.weight.data = torch.tensor([[0.1, -0.5, -0.1, 0.0]])  # one of four: 0 and -0.0 are +1
    assert flips.update() == {"": 0.25}
    layer.weight.data = torch.tensor([[-0.1, 0.5, 0.1, -0.0]])
    assert flips.update() == {"": 0.75}


def test_flips_are_those_of_the_weights_computed_with():
    layer = quantize.BinaryLinear(4, 1, bias=False, scheme="xnor")
    layer.weight.data = torch.tensor([[0.4, 0.3, 0.2, 0.1]])  # centred: + + - -
    flips = FlipRates(layer)
    layer.weight.data = torch.tensor([[0.4, 0.1, 0.2, 0.3]])
    assert flips.update() == {"": 0.5}


def test_a_resumed_run_counts_flips_from_its_checkpoint(tmp_path):
    session = train(tmp_path / "run", epochs=1)
    resumed = training.setup(training.config_from_flags(tiny_flags(tmp_path / "new", pretrained=str(session.run_dir))))
    assert set(FlipRates(resumed.model).update().values()) == {0.0}


def test_the_log_is_plain_json(tmp_path):
    train(tmp_path / "run", epochs=1)
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
