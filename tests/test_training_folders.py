"""Folders of pictures, decoded at once or streamed, and every way that one can be wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import write_pictures
from PIL import Image

from training import TrainConfig
from training.data import MEMORY_LIMIT, imagefolder, load_data
from training.data.decoded import decode
from training.data.loaders import MemoryLoader, StreamLoader
from training.errors import UnreadablePicture

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parent.parent


def folder_config(root, **flags):
    return TrainConfig.create(arch="nin", dataset="imagefolder", data_dir=str(root), **{"batch_size": 2, **flags})


def test_a_folder_is_decoded_exactly(tmp_path):
    write_pictures(tmp_path)
    classes, train, _ = imagefolder.find_pictures(tmp_path)
    assert classes == ["cat", "dog"]
    found, _ = decode(train, (3, 6, 6))
    for image, path in zip(found.images, train.paths, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(Image.open(path)))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_pictures_are_cut_to_shape_and_grey_where_wanted(tmp_path):
    write_pictures(tmp_path, size=(10, 20))
    _, train, _ = imagefolder.find_pictures(tmp_path)
    assert decode(train, (1, 5, 7))[0].images.shape == (6, 1, 5, 7)


@pytest.mark.parametrize("file", ["a.png", "a.tif", "a.pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_16_bits_keep_their_greys(tmp_path, file, channels):
    greys = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(greys * 257).save(tmp_path / file)  # 257 = 65535 / 255
    pixels = imagefolder.to_tensor(imagefolder.read_picture(str(tmp_path / file), channels))
    np.testing.assert_array_equal(pixels, np.broadcast_to(greys, (channels, 16, 16)))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pictures_without_a_known_white_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadablePicture, match="32-bit values.* 8 or 16 bits"):
        imagefolder.read_picture(str(tmp_path / "a.tif"), 1)


def test_streamed_batches_equal_those_from_memory(tmp_path, monkeypatch):
    write_pictures(tmp_path, count=5)
    config = folder_config(tmp_path, img_size=8, workers=1)
    memory = load_data(config, config.input_size, CPU)
    monkeypatch.setattr("training.data.MEMORY_LIMIT", 0)
    stream = load_data(config, config.input_size, CPU)
    assert isinstance(stream.train, StreamLoader)
    for name in ("train", "test"):
        for epoch in (0, 1):
            loaders = getattr(memory, name), getattr(stream, name)
            for loader in loaders:
                loader.set_epoch(epoch)
            for (a, x), (b, y) in zip(*loaders, strict=True):
                assert torch.equal(a, b)
                assert torch.equal(x, y)


def test_the_guide_says_how_much_is_decoded_at_once():
    guide = (ROOT / "READMEs" / "training.md").read_text()
    gibibytes = re.search(r"a folder that decodes to more than (\d+) GiB", " ".join(guide.split()))[1]
    assert int(gibibytes) * 2**30 == MEMORY_LIMIT


@pytest.mark.parametrize("missing", [0, 1])
def test_a_folder_is_decoded_at_once_where_all_its_bytes_fit(tmp_path, monkeypatch, missing):
    write_pictures(tmp_path)  # 6 pictures for training, 6 for testing
    monkeypatch.setattr("training.data.MEMORY_LIMIT", 12 * 3 * 8 * 8 - missing)
    config = folder_config(tmp_path, img_size=8, workers=0)
    loader = load_data(config, config.input_size, CPU).train
    assert isinstance(loader, StreamLoader if missing else MemoryLoader)


def test_random_crops_of_files_repeat_whatever_the_workers(tmp_path):
    write_pictures(tmp_path, count=4, size=(40, 40))
    batches = []
    for workers in (0, 2):
        config = folder_config(tmp_path, img_size=16, workers=workers, augment="resized_crop")
        loader = load_data(config, config.input_size, CPU).train
        loader.set_epoch(1)
        torch.randn(workers)
        batches.append(torch.cat([images for images, _ in loader]))
    assert torch.equal(*batches)
    loader.set_epoch(2)
    assert not torch.equal(torch.cat([images for images, _ in loader]), batches[0])


def test_large_pictures_are_cropped_from_their_files_by_default():
    small, large = (TrainConfig.create(arch="nin", dataset="imagefolder", img_size=n).augment for n in (64, 65))
    assert (small, large) == ("crop_flip", "resized_crop")
    config = TrainConfig.create(arch="nin", dataset="digits", augment="resized_crop")
    with pytest.raises(ValueError, match="needs picture files"):
        load_data(config, config.input_size, CPU)


def test_val_is_preferred_to_test(tmp_path):
    write_pictures(tmp_path, splits=("train", "test", "val"))
    (tmp_path / "val" / "cat" / "2.png").unlink()
    assert len(imagefolder.find_pictures(tmp_path)[2].paths) == 5


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data directory .*nowhere.*--data-dir"):
        imagefolder.find_pictures(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"must hold train/<class>/ and val/ or test/<class>/; it has nothing"):
        imagefolder.find_pictures(tmp_path)
    for alone in ("train", "test"):
        (tmp_path / alone).mkdir()
        with pytest.raises(FileNotFoundError, match=f"must hold train/<class>/ and val/ .*; it has {alone}$"):
            imagefolder.find_pictures(tmp_path)
        (tmp_path / alone).rmdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(FileNotFoundError, match="no pictures to train on"):
        imagefolder.find_pictures(tmp_path)
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match="cat"):
        imagefolder.find_pictures(tmp_path)


def test_classes_that_differ_are_named(tmp_path):
    write_pictures(tmp_path, ("cat", "dog"), splits=("train",))
    write_pictures(tmp_path, ("cat", "frog"), splits=("test",))
    with pytest.raises(ValueError, match="only in the first: dog; only in the second: frog"):
        imagefolder.find_pictures(tmp_path)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"not a picture")
    config = folder_config(tmp_path)
    with pytest.raises(ValueError, match=r"1\.png' is not a readable picture"):
        load_data(config, config.input_size, CPU)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_left_out_of_both_sets_is_told(tmp_path, monkeypatch, streamed):
    write_pictures(tmp_path)
    damaged = [tmp_path / split / "cat" / "1.png" for split in ("train", "test")]
    for path in damaged:
        path.write_bytes(b"not a picture")
    monkeypatch.setattr("training.data.MEMORY_LIMIT", 0 if streamed else 10**6)
    config = folder_config(tmp_path, img_size=8, workers=0, skip_corrupt=True)
    for test_only in (False, True):
        data = load_data(config, config.input_size, CPU, test_only=test_only)
        for loader in (data.train, data.test)[test_only:]:
            list(loader)
        assert data.skipped == {str(path) for path in damaged[test_only:]}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_test_set_without_readable_pictures_is_refused(tmp_path, monkeypatch, streamed):
    write_pictures(tmp_path)
    for path in tmp_path.glob("test/*/*.png"):
        path.write_bytes(b"not a picture")
    monkeypatch.setattr("training.data.MEMORY_LIMIT", 0 if streamed else 10**6)
    config = folder_config(tmp_path, img_size=8, workers=0, skip_corrupt=True)
    with pytest.raises(UnreadablePicture, match="none of .* can be read, such as .*; replace them"):
        list(load_data(config, config.input_size, CPU).test)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_no_picture_is_named_in_one_sentence_by_workers_too(tmp_path, workers):
    write_pictures(tmp_path)
    (tmp_path / "test" / "dog" / "2.png").write_bytes(b"not a picture")
    config = folder_config(tmp_path, img_size=8, augment="resized_crop", workers=workers)
    loader = load_data(config, config.input_size, CPU).test
    with pytest.raises(UnreadablePicture) as caught:
        list(loader)
    path = str(tmp_path / "test" / "dog" / "2.png")
    assert (
        str(caught.value)
        == f"{path!r} is not a readable picture; remove or replace it, or leave such out with --skip-corrupt"
    )
