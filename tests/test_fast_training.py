"""What the fastest trainers of small pictures do, each against a computation of its own."""

import copy

import numpy as np
import pytest
import torch
from cut_runs import assert_same, assert_same_run, resume, train_with_cuts_within_epochs
from tiny_runs import call, epochs_of, setup, train

import quantize
import training
from training import TrainConfig, engine
from training.data import Augmentation, Normalization, Share
from training.data.imagefolder import PictureFiles, find_pictures
from training.data.loaders import MemoryLoader, StreamLoader
from training.schedule import image_size
from training.whitening import whiten_first

# Statistics: --norm-images


def sampled(session, count):
    """``count`` training images, as a plain slice of what lies in memory."""
    loader = session.data.train
    indices = [int(i * (loader.count - 1) / (count - 1)) for i in range(count)]
    return loader.normalization(loader.images[indices])


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_first_batch_norm_has_mean_and_variance_of_all_images(tmp_path, ema):
    session = train(tmp_path / "run", epochs=1, ema=ema, norm_images=1001, batch_size=64)  # 16 batches, not all alike
    model, info = training.load_model(tmp_path / "run" / "last.pt")
    x = model[0](sampled(session, 1001)).double()
    torch.testing.assert_close(model[1].running_mean.double(), x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var.double(), x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert training.evaluate(model, session.data.test).top1 == info.acc1
    trained = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["trained"]
    assert trained is None or not torch.allclose(trained["1.running_mean"], model[1].running_mean, rtol=1e-3)


def test_statistics_of_batches_are_those_of_their_union():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    batches = [torch.randn(n, 3, 5) * (n + 1) + torch.tensor([n, 0.0, -n]).view(3, 1) for n in (7, 2, 4)]
    quantize.estimate_statistics(model, iter(batches))
    together = torch.cat(batches).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(model[0].running_mean.double(), together.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model[0].running_var.double(), together.var(1), rtol=1e-5, atol=1e-5)
    assert model[0].momentum == 0.1
    assert not model[0]._forward_hooks


def test_estimating_draws_nothing_and_leaves_the_weights(tmp_path):
    parts = []
    for name, count in (("plain", 0), ("estimated", 300)):
        session = train(tmp_path / name, augment="crop_flip", norm_images=count)
        checkpoint = torch.load(tmp_path / name / "last.pt", weights_only=True)
        weights = {name: checkpoint["model"][name] for name, _ in session.model.named_parameters()}
        parts.append((weights, checkpoint["optimizer"], checkpoint["rng"]))
    assert_same(*parts)


def test_every_batch_of_a_sample_is_of_the_whole_set(tmp_path):
    loader = setup(tmp_path / "run", batch_size=50).data.train
    batches = list(loader.sample(220))
    assert [len(batch) for batch in batches] == [44] * 5
    assert sum(map(len, loader.sample(10**6))) == loader.count
    first = loader.normalization(loader.images[[int(i * (loader.count - 1) / 219) for i in range(0, 220, 5)]])
    assert torch.equal(batches[0], first)


@pytest.mark.parametrize("augment", ["crop_flip", "crop_alternate", "none"])
def test_a_sample_is_augmented_the_same_each_time(tmp_path, augment):
    loader = setup(tmp_path / "run", batch_size=50, augment=augment).data.train
    plain, once, again = (torch.cat(list(loader.sample(200, augmented))) for augmented in (False, True, True))
    assert torch.equal(once, again)
    assert torch.equal(once, plain) == (augment == "none")
    if augment == "none":
        return
    # Each image is one of its own shifts, or of those of its mirror image.
    black = loader.normalization(torch.zeros(1, *plain.shape[1:], dtype=torch.uint8))[:, :, :1, :1]
    border = loader.augmentation.border(plain.shape[-2:])
    size = plain.shape[-1]
    for image, shifted in zip(plain[:20], once[:20], strict=True):
        wide = black.expand(1, -1, size + 2 * border, size + 2 * border).clone()
        wide[:, :, border:-border, border:-border] = image
        views = [side.unfold(2, size, 1).unfold(3, size, 1)[0] for side in (wide, wide.flip(3))]
        assert any((view == shifted[:, None, None]).flatten(3).all(3).all(0).any() for view in views)


def test_streamed_pictures_are_sampled_whole(tmp_path):
    from picture_files import write_pictures

    write_pictures(tmp_path / "pictures", count=6, size=(16, 16))
    flags = {"dataset": "imagefolder", "data_dir": str(tmp_path / "pictures"), "batch_size": 4, "workers": 0}
    cropped = setup(tmp_path / "a", augment="resized_crop", **flags).data.train
    whole = setup(tmp_path / "b", augment="none", **flags).data.train
    state = torch.get_rng_state()
    assert torch.equal(torch.cat(list(cropped.sample(99))), torch.cat(list(whole.sample(99))))
    assert torch.equal(torch.get_rng_state(), state)


# Tests with mirror images: --flip-test


def test_mirror_images_are_tested_beside_the_plain_ones(tmp_path, capsys):
    session = train(tmp_path / "run", epochs=1, flip_test=True, batch_size=32, lr=0.01)
    test = epochs_of(tmp_path / "run")[0]["test"]
    images, labels = (torch.cat(parts) for parts in zip(*session.data.test, strict=True))
    with torch.no_grad():
        plain, mirrored = (
            session.model.eval()(images),
            session.model(torch.from_numpy(images.numpy()[..., ::-1].copy())),
        )
    right = {"top1": plain, "top1_mirrored": (plain + mirrored) / 2}
    for name, outputs in right.items():
        assert test[name] == pytest.approx(100 * (outputs.argmax(1) == labels).float().mean().item())
    assert test["top1"] == session.best_acc1 != test["top1_mirrored"]
    line = f"top-1 {test['top1']:6.2f}%  with mirror images {test['top1_mirrored']:.2f}%"
    assert line in capsys.readouterr().out
    assert call("--evaluate", tmp_path / "run", "--flip-test") == 0
    assert line in capsys.readouterr().out
    (point,) = curve(tmp_path / "run", "top1/test_mirrored")
    assert point == pytest.approx(test["top1_mirrored"])


def curve(run_dir, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir))
    events.Reload()
    return [point.value for point in events.Scalars(tag)]


def test_without_the_flag_nothing_is_said_of_mirror_images(tmp_path, capsys):
    train(tmp_path / "run", epochs=1)
    assert "top1_mirrored" not in epochs_of(tmp_path / "run")[0]["test"]
    assert "mirror" not in capsys.readouterr().out


# The optimizer: --nesterov, --norm-bias-rate


def test_nesterov_is_torchs(tmp_path):
    flags = {"arch": "plain", "scheme": "none", "augment": "none", "optimizer": "sgd", "lr": 0.1, "lr_schedule": "step"}
    found = {}
    for nesterov in (True, False):
        session = setup(tmp_path / str(nesterov), epochs=1, nesterov=nesterov, **flags)
        found[nesterov] = session
        twin = copy.deepcopy(session.model).train()
        optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov)
        for images, labels in session.data.train:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(twin(images), labels).backward()
            optimizer.step()
        engine.train_epoch(session)
        for a, b in zip(session.model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[True].model[0].weight, found[False].model[0].weight, rtol=1e-2)


def test_biases_of_batch_norm_learn_at_a_rate_of_their_own(tmp_path):
    rates = {}
    for factor in (1.0, 8.0):
        session = setup(tmp_path / str(factor), optimizer="sgd", momentum=0.0, norm_bias_rate=factor, scheme="xnorpp")
        before = {name: p.detach().clone() for name, p in session.model.named_parameters()}
        for p in session.model.parameters():
            p.grad = torch.ones_like(p)
        engine.update(session, 0.5)
        rates[factor] = {name: (before[name] - p).mean().item() for name, p in session.model.named_parameters()}
    assert rates[1.0] == pytest.approx(dict.fromkeys(before, 0.5), rel=1e-3)
    assert rates[8.0] == pytest.approx(
        {name: 4.0 if name in ("1.bias", "4.bias") else 0.5 for name in before}, rel=1e-3
    )


def test_a_run_without_the_flag_has_the_groups_of_older_checkpoints(tmp_path):
    saved = setup(tmp_path / "run").checkpoint(None)["optimizer"]["param_groups"]
    assert len(saved) == 2
    assert all("rate" not in group for group in saved)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"nesterov": True, "optimizer": "adam"}, r"--nesterov needs --optimizer sgd .* the --optimizer is adam"),
        ({"nesterov": True, "optimizer": "sgd", "momentum": 0.0}, r"above 0; the --optimizer is sgd, its --momentum 0"),
        (
            {"norm_bias_rate": 8.0, "arch": "plain"},
            "--norm-bias-rate 8 has no meaning for a network without batch norm",
        ),
        ({"norm_bias_rate": 0.0}, "--norm-bias-rate is 0.0; it must be positive"),
        ({"norm_images": -1}, "--norm-images is -1; it must be at least 0"),
        (
            {"start_size": 4},
            r"--start-size 4 gives images of 4x4 pixels to 'tiny_xnornet', which does not take them \(",
        ),
        ({"start_size": 4, "arch": "mlp"}, r"--start-size 4 gives images of 4x4 pixels to 'mlp'"),
        ({"start_size": 12, "arch": "lenet5"}, r"--start-size 12 gives images of 12x12 pixels to 'lenet5'"),
        ({"start_size": 8}, "--start-size is 8; it must be below the size of the images, 8x8 pixels"),
        ({"start_size": 6}, "--start-size is 6; it must be a multiple of 4"),
        (
            {"whiten": True, "arch": "mlp"},
            r"--whiten needs a network that starts with a convolution .* '.*' \(Linear\)",
        ),
        ({"whiten": True, "keep_float": ()}, "--whiten needs a first layer that stays float; add it to --keep-float"),
        ({"whiten": True, "pretrained": "x.pt"}, "--whiten replaces filters of --pretrained x.pt"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_used_is_said_at_the_start(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        setup(tmp_path / "run", **flags)


# Mirroring in turn: --augment crop_alternate


def sides(loader, epochs):
    """Image -> in each epoch -1 where it was mirrored, 1 where it was not."""
    seen = {}
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for images, labels in loader:
            left, right = images[..., 0].mean((1, 2)), images[..., -1].mean((1, 2))
            for label, side in zip(labels.tolist(), (right - left).sign().int().tolist(), strict=True):
                seen.setdefault(label, {})[epoch] = side
    return seen


def ramps(count, **options):
    """A loader of images that grow brighter to the right; a label is the image's number."""
    images = torch.arange(100, 140, 10, dtype=torch.uint8).expand(count, 1, 4, 4).contiguous()
    augmentation = Augmentation(alternate=True)
    return MemoryLoader(
        images,
        torch.arange(count),
        8,
        Normalization((0.5,), (0.5,)),
        augmentation=augmentation,
        shuffle=True,
        **options,
    )


def test_each_image_is_mirrored_in_every_second_epoch():
    seen = sides(ramps(64, seed=3), epochs=4)
    for side in seen.values():
        assert [side[epoch] for epoch in range(4)] == [side[0] * (-1) ** epoch for epoch in range(4)]
    first = [side[0] for side in seen.values()]
    assert 16 < first.count(1) < 48
    assert seen == sides(ramps(64, seed=3), epochs=4)
    assert seen != sides(ramps(64, seed=4), epochs=4)


def test_which_are_mirrored_does_not_depend_on_who_takes_them():
    alone = sides(ramps(64), epochs=2)
    shares = [sides(ramps(64, share=Share(rank, 2, accumulate=2)), epochs=2) for rank in range(2)]
    for image, side in alone.items():
        assert shares[0].get(image, {}) | shares[1].get(image, {}) == side


def test_streamed_pictures_alternate_too(tmp_path):
    from picture_files import write_pictures

    write_pictures(tmp_path / "pictures", count=6, size=(16, 16))
    flags = {"dataset": "imagefolder", "data_dir": str(tmp_path / "pictures"), "batch_size": 4, "workers": 0}
    memory = setup(tmp_path / "a", augment="crop_alternate", **flags).data.train
    files = PictureFiles(find_pictures(tmp_path / "pictures")[1], (1, 8, 8))
    options = {"augmentation": memory.augmentation, "shuffle": True}
    streamed = StreamLoader(files, 4, memory.normalization, torch.device("cpu"), 0, **options)
    for epoch in range(2):
        for loader in (memory, streamed):
            loader.set_epoch(epoch)
        assert_same(list(streamed), list(memory))


# Growing images: --start-size


def test_images_grow_to_full_size_in_the_first_half(tmp_path):
    config = TrainConfig.create(arch="nin", dataset="cifar10", epochs=16, start_size=20)
    assert [image_size(config, epoch) for epoch in range(16)] == [20, 20, 20] + [24] * 3 + [28] * 2 + [32] * 8
    config = TrainConfig.create(arch="lenet5", dataset="mnist", epochs=3, start_size=12)
    assert [image_size(config, epoch) for epoch in range(3)] == [12, 20, 28]
    config = TrainConfig.create(arch="nin", dataset="cifar10", epochs=3)
    assert [image_size(config, epoch) for epoch in range(3)] == [32] * 3


def test_the_network_sees_small_images_in_training_and_whole_ones_in_tests(tmp_path):
    session = setup(tmp_path / "run", arch="pooled_xnornet", epochs=4, start_size=4, batch_size=500)
    seen = []
    session.model[0].register_forward_pre_hook(lambda layer, args: seen.append((layer.training, args[0])))
    for epoch in range(3):
        session.epoch = epoch
        engine.train_epoch(session)
    engine.evaluate(session.model, session.data.test)
    assert {images.shape[-2:] for training, images in seen if not training} == {(8, 8)}
    sizes = [images.shape[-1] for training, images in seen if training]
    assert sizes == [4] * 2 + [4] * 2 + [8] * 2
    session.data.train.set_epoch(0)
    whole = next(iter(session.data.train))[0]
    expected = torch.nn.functional.interpolate(whole, (4, 4), mode="bilinear", antialias=True)
    assert torch.equal(seen[0][1], expected)


def test_a_teacher_sees_whole_images(tmp_path):
    train(tmp_path / "teacher", epochs=1)
    flags = {"arch": "pooled_xnornet", "start_size": 4, "teacher": str(tmp_path / "teacher"), "distill_weight": 0.5}
    train(tmp_path / "run", epochs=2, **flags)  # another size would not fit the teacher


# First filters: --whiten


def patches_of(images, size=3):
    """(patches, values of each) of images (N, C, H, W)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * size * size).astype(np.float64)


def test_first_filters_whiten_patches(tmp_path):
    session = setup(tmp_path / "run", arch="pooled_xnornet", whiten=True)
    weight, loader = session.model[0].weight.detach().double().numpy(), session.data.train
    patches = patches_of(loader.normalization(loader.images).numpy())
    outputs = (patches - patches.mean(0)) @ weight[:18:2].reshape(9, 9).T
    values = np.sort(np.linalg.eigvalsh(np.cov(patches.T)))[::-1]
    np.testing.assert_allclose(np.cov(outputs.T), np.diag(values / (values + 5e-4)), atol=1e-3)
    assert (values > 0.01).all()  # so that this is nearly the identity
    np.testing.assert_array_equal(weight[1:18:2], -weight[:18:2])
    other = setup(tmp_path / "other", arch="pooled_xnornet").model.state_dict()
    own = session.model.state_dict()
    assert not torch.equal(own["0.weight"][:18], other["0.weight"][:18])
    own["0.weight"][:18] = other["0.weight"][:18] = 0
    assert_same(dict(own), dict(other))  # all else starts as it does without


def test_few_filters_are_those_of_the_largest_eigenvalues():
    conv, images = torch.nn.Conv2d(2, 5, 3, stride=2, padding=1), torch.randn(40, 2, 9, 9) * torch.rand(1, 1, 9, 9)
    whiten_first(torch.nn.Sequential(conv), images.split(16))
    corners = [(i, j) for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)]
    patches = np.concatenate([patches_of(images[:, :, i : i + 3, j : j + 3].numpy()) for i, j in corners])
    values, vectors = np.linalg.eigh(np.cov(patches.T, bias=True))
    filters = conv.weight.detach().flatten(1).double().numpy()
    for i, own in enumerate(filters):
        expected = vectors[:, -1 - i // 2] / np.sqrt(values[-1 - i // 2] + 5e-4)
        np.testing.assert_allclose(own, expected * np.sign(own @ expected), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(filters[[1, 3]], -filters[[0, 2]])


# All of them


FLAGS = {
    **{"arch": "pooled_xnornet", "whiten": True, "optimizer": "sgd", "lr": 0.05, "nesterov": True},
    **{"norm_bias_rate": 8.0, "norm_images": 300, "flip_test": True, "augment": "crop_alternate", "start_size": 4},
}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_with_all_of_them_goes_on_exactly(tmp_path, ema):
    train_with_cuts_within_epochs(tmp_path, epochs=2, batch_size=100, checkpoint_every=5, ema=ema, **FLAGS)
    for cut in ("cut1", "cut4"):
        torch.manual_seed(7)
        resume(tmp_path / cut)
        assert_same_run(tmp_path / cut, tmp_path / "uncut")
        assert epochs_of(tmp_path / cut) == epochs_of(tmp_path / "uncut")


def test_a_run_that_goes_on_takes_up_what_concerns_tests_alone(tmp_path):
    train_with_cuts_within_epochs(tmp_path, epochs=2, batch_size=100, checkpoint_every=5)
    for name in ("whiten", "nesterov", "norm_bias_rate", "start_size", "augment"):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {FLAGS[name]} contradicts"):
            resume(tmp_path / "cut1", **{name: FLAGS[name]})
    resume(tmp_path / "cut1", flip_test=True, norm_images=500)
    assert ["top1_mirrored" in epoch["test"] for epoch in epochs_of(tmp_path / "cut1")] == [True, True]
