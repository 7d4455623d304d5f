"""What the fastest trainers of small pictures do, each against a computation of its own."""

import pytest
import torch
from cut_runs import assert_same
from tiny_runs import setup, train

import quantize
import training

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


def test_streamed_pictures_are_sampled_whole(tmp_path):
    from picture_files import write_pictures

    write_pictures(tmp_path / "pictures", count=6, size=(16, 16))
    flags = {"dataset": "imagefolder", "data_dir": str(tmp_path / "pictures"), "batch_size": 4, "workers": 0}
    cropped = setup(tmp_path / "a", augment="resized_crop", **flags).data.train
    whole = setup(tmp_path / "b", augment="none", **flags).data.train
    state = torch.get_rng_state()
    assert torch.equal(torch.cat(list(cropped.sample(99))), torch.cat(list(whole.sample(99))))
    assert torch.equal(torch.get_rng_state(), state)
