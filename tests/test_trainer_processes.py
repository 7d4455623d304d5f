"""Several processes: what they train together is what one would train alone."""

import functools

import pytest
import torch
from cut_runs import assert_same
from process_runs import in_processes
from timm.layers import BatchNormAct2d
from tiny_runs import epochs_of, tiny_flags
from torch import nn

import training
from training.data import Share
from training.data.loaders import MemoryLoader
from training.data.normalization import Normalization
from training.processes.batch_norm import synchronize_batch_norm
from training.watch.runlog import read_log

# Each is run by two processes, and by one whose batch is as large as theirs together.
TINY = {"dropout": 0.0, "batch_size": 128}
RUNS = {
    "float": {**TINY, "scheme": "none"},
    "xnor": TINY,
    "two stages, averaged": {**TINY, "scheme": "react", "stage1_epochs": 1, "ema": 0.9},
    "accumulated": {"arch": "plain", "scheme": "none", "batch_size": 256},
}
TOLERANCE = {name: 1e-9 if RUNS[name].get("scheme") == "none" else 1e-5 for name in RUNS}  # thresholds are float32


def train_each(folder, changes):
    """Train each of ``RUNS``, with ``changes`` of its flags, in float64: sums of other order differ little."""
    with pytest.MonkeyPatch.context() as patch:
        normalize = Normalization.__call__
        patch.setattr(Normalization, "__call__", lambda *args: normalize(*args).double())
        torch.set_default_dtype(torch.float64)
        try:
            for name, flags in RUNS.items():
                common = {"optimizer": "sgd", "lr": 0.05, "augment": "crop_flip"}
                config = training.config_from_flags(tiny_flags(folder / name, **common, **{**flags, **changes[name]}))
                training.fit(training.setup(config))
        finally:
            torch.set_default_dtype(torch.float32)


def in_two_processes(folder, changes, batches):
    """What each of the two does: both are started once."""
    train_each(folder, changes)
    normalize_halves(batches, folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(the directory of what one process trained, that of two)."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train_each(one, {name: {} for name in RUNS})
    halves = {name: {"batch_size": flags["batch_size"] // 2} for name, flags in RUNS.items()}
    halves["accumulated"] = {"batch_size": 64, "accumulate": 2}
    torch.manual_seed(0)
    batches = {name: torch.randn(shape) * 2 + 30 for name, (_, _, shape) in BATCHES.items()}
    torch.save(batches, two / "batches.pt")
    in_processes(2, in_two_processes, two, two, halves, batches)
    return one, two


def last_of(run_dir):
    return torch.load(run_dir / "last.pt", weights_only=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_with_the_weights_of_one(runs, name):
    one, two = (last_of(folder / name) for folder in runs)
    assert one["model"].keys() == two["model"].keys()
    tolerance = {"rtol": TOLERANCE[name], "atol": TOLERANCE[name]}
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, **tolerance, msg=lambda text, key=key: f"{key}: {text}")
    assert one["plan"] == two["plan"]


@pytest.mark.parametrize("name", RUNS)
def test_their_figures_are_those_of_all_images(runs, name):
    for one, two in zip(*(epochs_of(folder / name) for folder in runs), strict=True):
        for part in ("train", "test"):
            assert two[part]["images"] == one[part]["images"]
            assert two[part]["top1"] == pytest.approx(one[part]["top1"], abs=1e-9)
            assert two[part]["loss"] == pytest.approx(one[part]["loss"], rel=1e-4)
    assert one["test"]["images"] == 355  # does not divide by two


def test_only_the_first_writes_and_both_states_are_kept(runs):
    folder = runs[1] / "float"
    assert len(list(folder.glob("events.*"))) == 1
    assert [entry["kind"] for entry in read_log(folder)] == ["run", "epoch", "epoch", "result"]
    states = last_of(folder)["rng"]
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])  # they drop other values


# Who takes which image.


def shares(processes, accumulate=1):
    return [Share(rank, processes, accumulate) for rank in range(processes)]


def loader_of(count, share, batch_size=4, **options):
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 8, 8).contiguous()
    normalization = Normalization((0.0,), (1 / 255,))
    return MemoryLoader(images, torch.arange(count), batch_size, normalization, share=share, **options)


@pytest.mark.parametrize(("count", "processes"), [(10, 3), (9, 3), (2, 3), (7, 2), (5, 1)])
def test_each_test_image_is_taken_once(count, processes):
    taken = [[labels.tolist() for _, labels in loader_of(count, share)] for share in shares(processes)]
    assert sum((batch for batches in taken for batch in batches), []) == list(range(count))
    for share, batches in zip(shares(processes), taken, strict=True):
        assert len(loader_of(count, share)) == len(batches)
        assert all(0 < len(batch) <= 4 for batch in batches)


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 1), (1, 3), (2, 2)])
def test_a_training_batch_is_the_same_however_it_is_shared(processes, accumulate):
    parts = processes * accumulate
    options = {"shuffle": True, "seed": 3, "augmentation": training.data.AUGMENTATIONS["crop_flip"]}
    alone = loader_of(100, Share(), batch_size=4 * parts, **options)
    together = [loader_of(100, share, **options) for share in shares(processes, accumulate)]
    for epoch in (0, 1):
        for loader in (alone, *together):
            loader.set_epoch(epoch)
        assert {len(loader) for loader in together} == {accumulate * len(alone)}
        batches = zip(*together, strict=True)
        for images, labels in alone:
            mine = [part for _ in range(accumulate) for part in next(batches)]
            assert torch.equal(torch.cat([part[0] for part in mine]), images)
            assert torch.equal(torch.cat([part[1] for part in mine]), labels)


def test_too_few_images_for_so_many():
    with pytest.raises(ValueError, match="5 training images are too few for 3 processes with --accumulate 2; start"):
        loader_of(5, Share(0, 3, 2), shuffle=True)
    assert len(loader_of(6, Share(0, 3, 2), shuffle=True)) == 2


def test_the_rest_of_an_epoch():
    options = {"shuffle": True, "augmentation": training.data.AUGMENTATIONS["crop_flip"]}
    whole = loader_of(30, Share(), **options)
    batches = iter(whole)
    for _ in range(3):
        next(batches)
    rest = loader_of(30, Share(), **options)
    rest.set_epoch(0, 12, whole.random_state)
    assert len(rest) == 4
    for (images, labels), (same_images, same_labels) in zip(batches, rest, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


# Batch norm.


def batch_norm(kind, x, **options):
    """A layer of random weights for ``x``, (N, C, ...)."""
    torch.manual_seed(0)
    layer = kind(x.shape[1], **options)
    for weight in layer.parameters():
        nn.init.uniform_(weight)
    return nn.Sequential(layer)


BATCHES = {
    "2d": (nn.BatchNorm2d, {}, (6, 3, 4, 4)),
    "1d": (nn.BatchNorm1d, {"momentum": None}, (8, 5)),
    "sequence": (nn.BatchNorm1d, {"affine": False}, (8, 5, 7)),
    "no statistics": (nn.BatchNorm2d, {"track_running_stats": False}, (4, 2, 3, 3)),
    "timm": (BatchNormAct2d, {"act_layer": nn.Tanh, "inplace": False}, (4, 2, 3, 3)),
}


def normalize_halves(batches, folder):
    """What each of two processes computes of its half in training and evaluation, its gradients, and its state."""
    rank = torch.distributed.get_rank()
    results = {}
    for name, x in batches.items():
        kind, options, _ = BATCHES[name]
        model = batch_norm(kind, x, **options)
        synchronize_batch_norm(model)
        for _ in range(2):
            half = x.chunk(2)[rank].clone().requires_grad_()
            y = model(half)
        (y.square().sum() * (1 + rank)).backward()
        results[name] = {"y": y.detach(), "input": half.grad, "weights": [p.grad for p in model.parameters()]}
        results[name] |= {"state": dict(model.state_dict()), "evaluated": model.eval()(half).detach()}
    torch.save(results, folder / f"{rank}.pt")


def test_batch_norm_of_two_processes_is_that_of_the_whole_batch(runs):
    batches, first, second = (torch.load(runs[1] / f"{name}.pt") for name in ("batches", "0", "1"))
    for name, x in batches.items():
        kind, options, _ = BATCHES[name]
        model = batch_norm(kind, x, **options)
        x.requires_grad_()
        for _ in range(2):
            y = model(x)
        torch.stack([(1 + i) * half.square().sum() for i, half in enumerate(y.chunk(2))]).sum().backward()
        one, two = first[name], second[name]
        close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
        close(torch.cat([one["y"], two["y"]]), y)
        close(torch.cat([one["input"], two["input"]]), x.grad)
        sums = [a + b for a, b in zip(one["weights"], two["weights"], strict=True)]
        close(sums, [p.grad for p in model.parameters()])
        close(one["state"], dict(model.state_dict()))
        assert_same(one["state"], two["state"])
        if name != "no statistics":  # which normalizes each test batch by itself
            close(torch.cat([one["evaluated"], two["evaluated"]]), model.eval()(x))


def test_a_batch_norm_of_an_unknown_kind_is_refused():
    class Odd(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(ValueError, match=r"'0' \(Odd\) cannot be shared by processes; train this network in one"):
        synchronize_batch_norm(nn.Sequential(Odd(3)))
