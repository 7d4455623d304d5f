"""What a run does where the disk is full, a directory cannot be written to, or pictures are damaged."""

import errno
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from cut_runs import assert_same_run
from picture_files import write_pictures
from tiny_runs import call, epochs_of, train

from training import checkpoint as checkpoints
from training import engine
from training.watch import logger, runlog
from training.watch.runlog import read_log

TINY = ("--arch", "tiny_xnornet", "--dataset", "digits", "--batch-size", "300", "--milestones", "9")
FULL = Path("/dev/full")  # every write to it finds no space

pytestmark = pytest.mark.usefixtures("empty_directory")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def error_of(capsys):
    """The one line of an error."""
    error = capsys.readouterr().err
    assert re.fullmatch(r"trainer_exp\.py: error: [^\n]+\n", error), error
    return error


# A full disk.


@needs_full
def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(monkeypatch, capsys):
    def fill_then_save(session, *args):
        if session.epoch == 2:
            (session.run_dir / "last.pt.tmp").symlink_to(FULL)
        save(session, *args)

    train(Path("uncut"), epochs=3, batch_size=300, lr_schedule="step", milestones=(9,))
    save = engine.save
    with monkeypatch.context() as patch:
        patch.setattr(engine, "save", fill_then_save)
        assert call(*TINY, "--epochs", 3, "--log-path", "run") == 1
    error = error_of(capsys)
    assert "'run/last.pt' cannot be written (No space left on device); make room; " in error
    assert "run/last.pt is whole, continue with --resume run/last.pt" in error
    assert not list(Path("run").glob("*.tmp"))
    assert torch.load("run/last.pt", weights_only=True)["epoch"] == 1
    assert call("--resume", "run") == 0
    assert_same_run(Path("run"), Path("uncut"))
    assert epochs_of(Path("run")) == epochs_of(Path("uncut"))


@needs_full
@pytest.mark.parametrize("size", [1, 10**6])
def test_a_checkpoint_without_space_is_the_old_one(tmp_path, size):
    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"epoch": 1})
    (tmp_path / "last.pt.tmp").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(size)})
    assert caught.value.filename == str(path)
    assert checkpoints.read_file(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
@pytest.mark.parametrize("room", [1000, 100_000])
def test_a_checkpoint_that_gets_half_onto_the_disk_is_the_old_one(tmp_path, room):
    import resource

    path = tmp_path / "last.pt"
    checkpoints.save_checkpoint(path, {"epoch": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))  # torch's own error hides the disk's here
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            checkpoints.save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(10**6)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(path)
    assert checkpoints.read_file(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_an_error_that_is_not_the_disks_is_not_taken_for_it(tmp_path):
    with pytest.raises(TypeError):
        checkpoints.save_checkpoint(tmp_path / "last.pt", {"key": (i for i in ())})


def test_the_log_has_whole_entries_only(tmp_path, monkeypatch):
    runlog.append(tmp_path, "epoch", epoch=1)
    whole = (tmp_path / "log.jsonl").read_bytes()

    class Full:
        """A file of which a part of what is written gets onto the disk."""

        def __init__(self, path):
            self.path = path

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        def write(self, text):
            with open(self.path, "ab") as file:
                file.write(text[:5].encode())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, mode: Full(path))
        with pytest.raises(OSError, match="No space left") as caught:
            runlog.append(tmp_path, "epoch", epoch=2)
    assert caught.value.filename == str(tmp_path / "log.jsonl")
    assert (tmp_path / "log.jsonl").read_bytes() == whole
    (tmp_path / "log.jsonl").write_bytes(whole + whole[:7])  # as a power cut leaves it
    assert read_log(tmp_path) == [{"kind": "epoch", "epoch": 1}]


def test_curves_that_cannot_be_written(monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(logger.TensorBoardLog, "epoch", full)
    monkeypatch.setattr(logger.TensorBoardLog, "close", full)
    assert call(*TINY, "--epochs", 1, "--log-path", "run") == 1
    assert "'run' cannot be written (No space left on device); make room; there is no checkpoint yet" in error_of(
        capsys
    )


def test_ctrl_c_is_told_where_the_curves_cannot_be_written_either(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine, "save", interrupt)
    monkeypatch.setattr(logger.TensorBoardLog, "close", full)
    assert call(*TINY, "--epochs", 1, "--log-path", "run") == 130
    assert "interrupted after 1 of 1 epochs; no epoch was finished" in error_of(capsys)


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="a directory that not even root can write to")
def test_a_directory_that_cannot_be_written_to_is_refused(capsys):
    assert call(*TINY, "--epochs", 1, "--log-path", "/proc/self/fdinfo") == 2
    error = error_of(capsys)
    assert "'/proc/self/fdinfo' cannot be made a run directory (" in error
    assert "; choose another --log-path" in error
    assert list(Path().iterdir()) == []


# Pictures that cannot be read.

FOLDER = ("--arch", "tiny_xnornet", "--dataset", "imagefolder", "--data-dir", "pictures", "--batch-size", "4")
STREAMED = ("--augment", "resized_crop", "--workers", "1")


@pytest.fixture
def damaged(tmp_path):
    """Three of 24 pictures: one of them cut short, one empty, one of text."""
    write_pictures(tmp_path / "pictures", count=6, size=(12, 12))
    paths = [
        Path("pictures", *name)
        for name in (("train", "cat", "0.png"), ("train", "dog", "3.png"), ("test", "cat", "5.png"))
    ]
    for path, content in zip(paths, (paths[0].read_bytes()[:200], b"", b"not a picture"), strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


@pytest.mark.parametrize("how", [(), STREAMED], ids=["memory", "streamed"])
def test_damaged_pictures_are_skipped_on_request(damaged, how, capsys):
    assert call(*FOLDER, *how, "--epochs", 1, "--log-path", "refused") in (1, 2)
    error = error_of(capsys)
    assert any(
        f"{path!r} is not a readable picture; remove or replace it, or leave such out with" in error for path in damaged
    )
    assert call(*FOLDER, *how, "--epochs", 2, "--skip-corrupt", "--log-path", "run") == 0
    out = capsys.readouterr().out
    assert f"Warning: 3 unreadable pictures are skipped: {', '.join(sorted(damaged))}" in out
    assert out.count("Warning: ") - out.count("binary layers") == 1
    epochs = epochs_of(Path("run"))
    assert [json.dumps(entry.get("skipped", [])) for entry in epochs] == [json.dumps(sorted(damaged)), "[]"]
    assert epochs[0]["test"]["images"] == 11  # none in the place of the damaged one
    assert epochs[0]["train"]["images"] == 8 if not how else 12  # whole batches of 10 pictures, or of 12
    assert call("--evaluate", "run") == 0
    assert f"Warning: 1 unreadable picture is skipped: {damaged[2]}" in capsys.readouterr().out


def test_a_batch_without_a_readable_picture_stops_the_run(tmp_path, capsys):
    write_pictures(tmp_path / "pictures", size=(12, 12))
    for path in Path("pictures/train").rglob("*.png"):
        path.write_bytes(b"")
    for how, fragment in (((), "none of 6 pictures can be read, such as"), (STREAMED, "no picture of a batch can be")):
        assert call(*FOLDER, *how, "--skip-corrupt", "--epochs", 1, "--log-path", "run") in (1, 2)
        assert fragment in error_of(capsys)
