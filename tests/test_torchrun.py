"""torchrun as people call it: two machines, and processes that die."""

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from cut_runs import assert_same_run
from process_runs import ROOT, ended, torchrun
from tiny_runs import epochs_of

TRAINER = (ROOT / "trainer_exp.py", "--arch", "lenet5_xnornet", "--dataset", "digits", "--gpu", "")
FLAGS = ("--epochs", "2", "--batch-size", "60", "--checkpoint-every", "2")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory):
    """(the directory of a run of two torchruns of a process each, what they said)."""
    folder = tmp_path_factory.mktemp("machines")
    rendezvous = ("--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    nodes = [torchrun(*rendezvous, *TRAINER, *FLAGS, "--log-path", folder / "run", cwd=folder) for _ in range(2)]
    with ended(*nodes):
        said = [node.communicate()[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], said
    return folder / "run", said


def test_two_machines_train_one_network(two_machines):
    run_dir, said = two_machines
    speaking = [text for text in said if "Train:" in text]
    assert len(speaking) == 1
    assert "effective batch: 120 images (60 x 2 processes), learning rate 0.01" in speaking[0]
    assert len(re.findall("^Test:", speaking[0], re.MULTILINE)) == 2
    assert [entry["test"]["images"] for entry in epochs_of(run_dir)] == [355] * 2
    assert epochs_of(run_dir)[-1]["test"]["top1"] > 80


# A process dies.


def worker(launcher, rank):
    """The number of the process of ``rank`` that ``launcher`` has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that has just ended
            parent = re.search(r"\) \S (\d+)", (folder / "stat").read_text())[1]
            if int(parent) == launcher.pid and f"RANK={rank}" in (folder / "environ").read_text().split("\0"):
                return int(folder.name)
    raise AssertionError(f"there is no process of rank {rank}")


def checkpoints_of(folder, pause):
    """Read the only run's last checkpoint every ``pause`` seconds; one that cannot be read ends the test."""
    while True:
        for path in folder.glob("runs/*/last.pt"):
            yield torch.load(path, weights_only=True)
        time.sleep(pause)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_a_killed_process_starts_again_from_the_last_checkpoint(two_machines, tmp_path):
    launcher = torchrun(
        "--nproc_per_node", 2, "--master-port", free_port(), "--max-restarts", 1, *TRAINER, *FLAGS, cwd=tmp_path
    )
    with ended(launcher):
        for checkpoint in checkpoints_of(tmp_path, 0.02):
            assert launcher.poll() is None, launcher.communicate()
            if checkpoint["partial"] is not None:
                break
        os.kill(worker(launcher, rank=1), signal.SIGKILL)
        for _ in checkpoints_of(tmp_path, 0.2):
            if launcher.poll() is not None:
                break
        said, _ = launcher.communicate()
    assert launcher.returncode == 0, said
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert_same_run(run_dir, two_machines[0])
    assert epochs_of(run_dir) == epochs_of(two_machines[0])
    assert re.search(r"==> continuing (in epoch \d after [\d,]+ images|after epoch \d): lenet5_xnornet", said)
    assert not list(run_dir.glob("*.tmp"))
    assert "trainer_exp.py: error: process 0 has lost another one" in said
    assert "Traceback" not in said
