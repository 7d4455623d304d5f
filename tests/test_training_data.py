"""Loaders against plain loops, and every way that data can be missing."""

import pickle
import urllib.error

import numpy as np
import pytest
import torch

from training import TrainConfig
from training.data import AUGMENTATIONS, Augmentation, adapt, datasets, derive_seed, load_data
from training.data.loaders import MemoryLoader, Share
from training.data.normalization import PRESETS, Normalization, get_preset, given

pytestmark = pytest.mark.core

CPU = torch.device("cpu")


# Normalization.


def test_normalization_is_the_formula():
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    mean, std = PRESETS["cifar10"]
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(PRESETS["cifar10"](images).double(), expected, atol=1e-5, rtol=1e-5)


# Mean and deviation of the pixels in 0 to 1, as the sets' users publish them; ImageNet's as torchvision has them.
PUBLISHED = {
    "mnist": "0.1307 0.3081",
    "fashionmnist": "0.2860 0.3530",
    "cifar10": "0.4914 0.4822 0.4465 0.2470 0.2435 0.2616",
    "cifar100": "0.5071 0.4865 0.4409 0.2673 0.2564 0.2762",
    "svhn": "0.4377 0.4438 0.4728 0.1980 0.2010 0.1970",
    "imagenet": "0.485 0.456 0.406 0.229 0.224 0.225",
    "half": "0.5 0.5",
    "none": "0 1",
}


def test_presets_are_what_was_measured():
    for name, values in PUBLISHED.items():
        mean, std = PRESETS[name]
        assert (*mean, *std) == tuple(map(float, values.split())), name
        assert len(mean) == len(std)
    from sklearn.datasets import load_digits

    pixels = load_digits().images / 16
    assert PRESETS["digits"].mean == pytest.approx([pixels.mean()], abs=5e-5)
    assert PRESETS["digits"].std == pytest.approx([pixels.std()], abs=5e-5)
    assert PRESETS.keys() == {*PUBLISHED, "digits"}


def test_presets_fit_other_channels():
    assert get_preset("mnist", 3).mean == (0.1307,) * 3
    assert get_preset("cifar10", 1).std == pytest.approx((sum(PRESETS["cifar10"].std) / 3,))
    with pytest.raises(ValueError, match=r"unknown normalization 'imagnet'.*did you mean 'imagenet'"):
        get_preset("imagnet", 3)


def test_given_normalization_is_checked():
    assert given((0.5,), (0.2,), 3) == Normalization((0.5,) * 3, (0.2,) * 3)
    with pytest.raises(ValueError, match="--mean has 2 values; images of 3 channels need 1 or 3"):
        given((0.5, 0.5), (0.2,), 3)
    with pytest.raises(ValueError, match=r"^--mean \(0\.5,\) and --std missing must be given together"):
        given((0.5,), (), 3)
    with pytest.raises(ValueError, match=r"^--mean missing and --std \(0\.2,\) must be given together"):
        given((), (0.2,), 3)
    with pytest.raises(ValueError, match="must be positive"):
        given((0.5,), (0.0,), 1)


# Augmentation.


def augmented(augmentation, images, seed):
    generator = torch.Generator().manual_seed(seed)
    return augmentation.move(images, *augmentation.draw(len(images), images.shape[-2:], generator))


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (4, False), (4, True)])
def test_augmentation_gives_crops_of_the_padded_image(padding, flip):
    images = torch.randint(256, (64, 2, 32, 32), dtype=torch.uint8)
    out = augmented(Augmentation(padding, flip), images, seed=1)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (padding,) * 2, (padding,) * 2])
    seen = set()
    for n, crop in enumerate(out.numpy()):
        found = [
            (y, x, mirrored)
            for mirrored in ((False, True) if flip else (False,))
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            if np.array_equal(crop[..., ::-1] if mirrored else crop, padded[n, :, y : y + 32, x : x + 32])
        ]
        assert len(found) == 1, n
        seen.add(found[0])
    assert len(seen) > (1 if padding == 0 else 30)  # images are treated one by one
    assert {mirrored for *_, mirrored in seen} == ({False, True} if flip else {False})


def test_augmentations_by_name():
    """(pixels that an image of 32x32 may move, whether it is mirrored, whether it is cut from its file)"""
    found = {name: (a.border((32, 40)), a.flip, a.resized_crop) for name, a in AUGMENTATIONS.items()}
    assert found == {
        "none": (0, False, False),
        "shift": (2, False, False),
        "crop_flip": (4, True, False),
        "crop_alternate": (4, False, False),
        "resized_crop": (0, True, True),
    }
    assert AUGMENTATIONS["none"].draw(3, (32, 32), torch.Generator()) is None


def test_padding_scales_with_the_image():
    images = torch.full((200, 1, 64, 64), 255, dtype=torch.uint8)
    black_rows = (augmented(Augmentation(padding=4), images, seed=0)[:, 0].amax(2) == 0).sum(1)
    assert black_rows.max() == 8


# Loaders.


def memory_loader(**options):
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 4, 4).contiguous()
    return MemoryLoader(images, torch.arange(10), 4, Normalization((0.0,), (1 / 255,)), **options)


def order(loader, epoch):
    loader.set_epoch(epoch)
    return torch.cat([labels for _, labels in loader]).tolist()


def test_shuffled_epochs_depend_on_seed_and_epoch_alone():
    loader = memory_loader(shuffle=True, seed=3)
    epochs = [order(loader, epoch) for epoch in range(4)]
    assert len({tuple(e) for e in epochs}) == 4
    torch.randn(7)  # another random stream does not matter
    assert order(memory_loader(shuffle=True, seed=3), 2) == epochs[2]
    assert order(memory_loader(shuffle=True, seed=4), 2) != epochs[2]
    assert all(len(e) == len(set(e)) == 8 for e in epochs)  # the last incomplete batch is left out
    assert len(loader) == 2


def test_test_sets_come_whole_and_in_order():
    loader = memory_loader()
    assert order(loader, 0) == order(loader, 5) == list(range(10))
    assert len(loader) == 3
    for images, labels in loader:
        assert torch.allclose(images[:, 0, 0, 0], labels.float(), atol=1e-4)  # pictures stay with their labels
        assert images.dtype == torch.float32


def test_processes_take_turns_at_the_parts_of_a_batch():
    shares = [Share(rank, processes=3, accumulate=2) for rank in range(3)]
    parts = [share.part(turn, 4) for turn in range(2) for share in shares]
    assert parts == [slice(start, start + 4) for start in range(0, 24, 4)]
    assert {share.parts for share in shares} == {6}


def test_a_process_without_test_pictures_has_no_batch():
    loaders = [memory_loader(share=Share(rank, processes=12)) for rank in range(12)]
    assert [len(loader) for loader in loaders] == [1] * 10 + [0] * 2
    assert [order(loader, 0) for loader in loaders[:10]] == [[i] for i in range(10)]
    assert [list(loader) for loader in loaders[10:]] == [[], []]


def test_derived_seeds_differ():
    assert len({derive_seed(a, b) for a in range(30) for b in range(30)}) == 900


# Sets by name.


# (height and width, normalization, augmentation) where no flag says otherwise.
SETS = {
    "digits": ((8, 8), "digits", "shift"),
    "mnist": ((28, 28), "mnist", "shift"),
    "fashionmnist": ((28, 28), "fashionmnist", "shift"),
    "cifar10": ((32, 32), "cifar10", "crop_flip"),
    "cifar100": ((32, 32), "cifar100", "crop_flip"),
    "svhn": ((32, 32), "svhn", "shift"),
    "imagefolder": ((224, 224), "imagenet", "crop_flip"),
}


def test_sets_have_their_sizes():
    found = {name: (s.image_size, s.normalization, s.augmentation) for name, s in datasets.DATASETS.items()}
    assert found == SETS
    assert datasets.load_digits(None)[1].images.shape[1:] == (1, *SETS["digits"][0])


def test_digits_are_split_evenly_and_without_overlap():
    classes, train, test = datasets.load_digits(None)
    assert classes == [str(d) for d in range(10)]
    assert (len(train.images), len(test.images)) == (1442, 355)
    assert train.images.dtype == torch.uint8
    assert train.images.amax() == 255
    share = torch.bincount(test.labels) / (torch.bincount(test.labels) + torch.bincount(train.labels))
    assert ((share > 0.19) & (share <= 0.2)).all()
    from sklearn.datasets import load_digits

    everything = sorted(map(tuple, load_digits().data.tolist()))
    both = torch.cat([train.images, test.images]).flatten(1)
    assert sorted(map(tuple, (both.float() * 16 / 255).round().tolist())) == everything


def test_images_are_adapted_to_the_network():
    colour = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    grey = adapt(colour, (1, 8, 8))
    expected = np.einsum("nchw,c->nhw", colour.numpy(), [0.299, 0.587, 0.114]).round()
    assert np.abs(grey[:, 0].numpy() - expected).max() <= 1
    assert torch.equal(adapt(colour, (3, 8, 8)), colour)
    bigger = adapt(grey, (3, 16, 16))
    assert bigger.shape == (3, 3, 16, 16)
    assert torch.equal(bigger[:, 0], bigger[:, 2])
    assert adapt(torch.full((1, 1, 8, 8), 77, dtype=torch.uint8), (1, 11, 11)).unique().tolist() == [77]


def test_digits_arrive_in_the_networks_shape():
    for arch, shape in (("nin_gc_xnornet", (3, 32, 32)), ("lenet5", (1, 28, 28))):
        config = TrainConfig.create(arch=arch, dataset="digits")
        data = load_data(config, config.input_size, CPU)
        images, labels = next(iter(data.train))
        assert images.shape == (config.batch_size, *shape)
        assert abs(images.mean()) < 0.2
        assert labels.max() < len(data.classes)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_mnist_is_read_from_its_files(tmp_path, name, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("t10k", 5)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)
        arrays[split] = images.astype(np.uint8), labels.astype(np.uint8)
        write_idx(raw / f"{split}-images-idx3-ubyte", arrays[split][0])
        write_idx(raw / f"{split}-labels-idx1-ubyte", arrays[split][1])
    classes, train, test = datasets.get_dataset(name).load(tmp_path)
    assert len(classes) == 10
    np.testing.assert_array_equal(train.images[:, 0], arrays["train"][0])
    np.testing.assert_array_equal(test.labels, arrays["t10k"][1])


def test_the_training_split_is_read_only_where_it_is_asked_for(tmp_path, monkeypatch):
    import torchvision.datasets

    class Recorded(torchvision.datasets.CIFAR10):
        def __init__(self, root, train=True, download=False):
            opened.append("train" if train else "test")
            self.data, self.targets, self.classes = np.zeros((4, 32, 32, 3), np.uint8), [0, 1, 2, 3], list("abcd")

    opened = []
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Recorded)
    config = TrainConfig.create(arch="nin", dataset="cifar10", data_dir=str(tmp_path), batch_size=2)
    data = load_data(config, (3, 32, 32), CPU, test_only=True)
    assert (data.train, data.test.count, opened) == (None, 4, ["test"])
    assert load_data(config, (3, 32, 32), CPU).train.count == 4
    assert sorted(opened) == ["test", "test", "train"]


@pytest.mark.parametrize(("name", "cls"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_is_read_from_its_files(tmp_path, monkeypatch, name, cls):
    import torchvision.datasets

    make = getattr(torchvision.datasets, cls)
    monkeypatch.setattr(make, "_check_integrity", lambda self: True)
    monkeypatch.setattr(make, "meta", {**make.meta, "md5": None})
    folder = tmp_path / make.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {}
    for file, _ in make.train_list + make.test_list:
        pixels[file] = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
        entry = {"data": pixels[file].reshape(2, -1), "labels": [3, 4], "fine_labels": [3, 4]}
        (folder / file).write_bytes(pickle.dumps(entry))
    names = [f"class {i}" for i in range(100)]
    (folder / make.meta["filename"]).write_bytes(pickle.dumps({make.meta["key"]: names}))
    classes, train, test = datasets.get_dataset(name).load(tmp_path)
    assert classes == names
    np.testing.assert_array_equal(test.images, pixels[make.test_list[0][0]])
    assert train.labels.tolist() == [3, 4] * len(make.train_list)


def test_svhn_is_read_from_its_files(tmp_path, monkeypatch):
    import scipy.io
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [3], [9]])})
    classes, train, _ = datasets.get_dataset("svhn").load(tmp_path)
    assert len(classes) == 10
    assert train.labels.tolist() == [1, 0, 3, 9]
    np.testing.assert_array_equal(train.images, pixels.transpose(3, 2, 0, 1))


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "cifar10", "cifar100", "svhn"])
def test_without_network_the_error_says_which_files_go_where(tmp_path, monkeypatch, name):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    target = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*: put .* there.*--data-dir") as caught:
        datasets.get_dataset(name).load(target)
    assert str(target) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()  # nothing half-made is left


def test_unknown_dataset_names_close_ones():
    with pytest.raises(ValueError, match=r"unknown dataset 'cifar': did you mean 'cifar10'.*imagefolder"):
        TrainConfig.create(dataset="cifar")
