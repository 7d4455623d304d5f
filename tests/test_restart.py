"""A run that torchrun starts again finds its directory, whatever it had reached."""

import re
from pathlib import Path

import pytest
import torch.distributed as dist
from cut_runs import assert_same_run
from tiny_runs import call, epochs_of, train

from training import engine

FLAGS = ("--arch", "tiny_xnornet", "--dataset", "digits", "--batch-size", "200", "--epochs", "2")


@pytest.fixture
def torchrun(monkeypatch, tmp_path):
    """What torchrun gives the processes that it starts; its store lives as long as the test."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"USE_AGENT_STORE": "True", "RUN_ID": "none"}
    for name, value in environment.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.chdir(tmp_path)
    return store


def die_at(monkeypatch, name, when):
    """Let the run die where the function ``name`` of the engine is called for the ``when``-th time."""

    def count_and_die(*args):
        calls.append(1)
        if len(calls) == when:
            raise KeyboardInterrupt
        return function(*args)

    calls, function = [], getattr(engine, name)
    monkeypatch.setattr(engine, name, count_and_die)


@pytest.mark.parametrize(
    ("function", "when", "said"),
    [
        ("save", 1, "training"),
        ("save", 2, "continuing after epoch 1"),
        ("save_partial", 2, "continuing in epoch 1 after 400 images"),
    ],
    ids=["before a checkpoint", "between epochs", "within one"],
)
@pytest.mark.parametrize("where", [(), ("--log-path", "runs/chosen")], ids=["default", "chosen"])
def test_it_goes_on_where_it_was(torchrun, tmp_path, monkeypatch, capsys, function, when, said, where):
    flags = (*FLAGS, "--checkpoint-every", "2" if function == "save_partial" else "0", *where)
    with monkeypatch.context() as patch:
        die_at(patch, function, when)
        assert call(*flags) == 130
    capsys.readouterr()
    assert call(*flags) == 0
    assert re.search(rf"^==> {said}: tiny_xnornet", capsys.readouterr().out, re.MULTILINE)
    (run_dir,) = Path("runs").iterdir()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    train(tmp_path / "uncut", batch_size=200, epochs=2)
    assert_same_run(run_dir, tmp_path / "uncut")
    assert [entry["epoch"] for entry in epochs_of(run_dir)] == [1, 2]


def test_a_run_that_was_done_is_done_again_without_an_epoch(torchrun, capsys):
    assert call(*FLAGS) == 0
    capsys.readouterr()
    assert call(*FLAGS) == 0  # as after a death within the export, which comes then
    out = capsys.readouterr().out
    assert "best_acc1: " in out
    assert "Train:" not in out


def test_another_run_of_the_same_store_is_another(torchrun, monkeypatch):
    assert call(*FLAGS) == 0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    assert call(*FLAGS) == 0
    assert len(list(Path("runs").iterdir())) == 2
