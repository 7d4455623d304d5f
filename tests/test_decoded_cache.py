"""Decoded folders of pictures are kept, for as long as the pictures stay as they are."""

import os
from pathlib import Path

import pytest
import torch
from picture_files import write_pictures

from training.data import decoded, imagefolder
from training.data.decoded import decode
from training.errors import UnreadablePicture

SIZE = (3, 6, 6)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(decoded.VARIABLE, str(folder))
    return folder


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "set")
    return imagefolder.find_pictures(tmp_path / "set")[1]


@pytest.fixture
def reads(monkeypatch):
    """The paths that are decoded from now on."""
    paths, read = [], decoded.read_picture
    monkeypatch.setattr(decoded, "read_picture", lambda path, channels: paths.append(path) or read(path, channels))
    return paths


def test_the_second_time_no_picture_is_read(cache, pictures, reads):
    first, _ = decode(pictures, SIZE)
    assert sorted(reads) == sorted(pictures.paths)
    second, skipped = decode(pictures, SIZE)
    assert len(reads) == len(pictures.paths)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert skipped == []


@pytest.mark.parametrize("change", ["time", "size", "name"])
def test_a_changed_picture_is_read(cache, pictures, reads, change):
    decode(pictures, SIZE)
    path = Path(pictures.paths[0])
    if change == "time":
        os.utime(path, ns=(0, 1))
    elif change == "size":
        path.write_bytes(path.read_bytes() + b"0")
    else:
        pictures.paths[0] = str(path.rename(path.with_name("0" + path.name)))
    decode(pictures, SIZE)
    assert len(reads) == 2 * len(pictures.paths)
    assert len(list(cache.iterdir())) == 1  # the older one is gone


def test_every_input_size_is_kept(cache, pictures, reads):
    for size in (SIZE, (1, 5, 7), SIZE, (1, 5, 7)):
        assert decode(pictures, size)[0].images.shape[1:] == size
    assert len(reads) == 2 * len(pictures.paths)


@pytest.mark.parametrize("contents", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_damaged_file_is_replaced(cache, pictures, reads, contents):
    first, _ = decode(pictures, SIZE)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(contents or whole[:-1])
    assert torch.equal(decode(pictures, SIZE)[0].images, first.images)
    assert file.read_bytes() == whole


def test_nothing_is_kept_where_nobody_wants_it(pictures, reads, monkeypatch, tmp_path):
    monkeypatch.setenv(decoded.VARIABLE, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for _ in range(2):
        decode(pictures, SIZE)
    assert len(reads) == 2 * len(pictures.paths)
    assert not (tmp_path / "home").exists()


def test_a_place_that_cannot_be_written_is_no_error(pictures, reads, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(decoded.VARIABLE, str(tmp_path / "file"))
    for _ in range(2):
        decode(pictures, SIZE)
    assert len(reads) == 2 * len(pictures.paths)


def test_a_full_disk_leaves_nothing_behind(cache, pictures, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded.np, "save", full)
    decode(pictures, SIZE)
    assert list(cache.iterdir()) == []


def test_unreadable_pictures_are_not_kept(cache, pictures, reads):
    Path(pictures.paths[1]).write_text("no picture")
    with pytest.raises(UnreadablePicture):
        decode(pictures, SIZE)
    images, skipped = decode(pictures, SIZE, skip=True)
    assert skipped == [pictures.paths[1]]
    assert len(images.labels) == len(pictures.paths) - 1
    assert not cache.exists()
