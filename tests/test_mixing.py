"""Mixup and random erasing of batches: what they compute, and that they repeat."""

import random
from types import SimpleNamespace

import pytest
import torch
from cut_runs import assert_resumes_exactly
from tiny_runs import tiny_flags

import training
from training.data.mixing import Mixing
from training.objective import Objective

CPU = torch.device("cpu")


def mixing(mixup=0.0, random_erasing=0.0, seed=0):
    config = SimpleNamespace(mixup=mixup, random_erasing=random_erasing, seed=seed)
    return Mixing(config, 5, CPU)


@pytest.fixture
def batch():
    return torch.randn(16, 3, 12, 12) + 3, torch.arange(16) % 5


def test_without_flags_nothing_happens(batch):
    images, labels = mixing()(*batch, 0, 0)
    assert images is batch[0]
    assert labels is batch[1]


def test_mixup_mixes_images_and_labels_by_the_same_share(batch):
    images, labels = batch
    shares = set()
    for step in range(20):
        mixed, targets = mixing(mixup=1.0)(images.clone(), labels, 3, step)
        one_hot = torch.eye(5)[labels]
        other = images.roll(1, 0)
        share = ((mixed - other) * (images - other)).sum().item() / (images - other).square().sum().item()
        torch.testing.assert_close(mixed, share * images + (1 - share) * other, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(targets, share * one_hot + (1 - share) * one_hot.roll(1, 0), atol=1e-4, rtol=1e-4)
        shares.add(round(share, 3))
    assert min(shares) < 0.25
    assert max(shares) > 0.75


def test_erasing_blackens_a_rectangle_of_some_images(batch):
    images, labels = batch
    erased, targets = mixing(random_erasing=0.5)(images.clone(), labels, 0, 0)
    assert targets is labels
    hit = [i for i in range(16) if not torch.equal(erased[i], images[i])]
    assert 3 <= len(hit) <= 13
    for i in hit:
        changed = (erased[i] != images[i]).all(0)
        assert (erased[i][:, changed] == 0).all()
        rows, columns = changed.any(1).sum().item(), changed.any(0).sum().item()
        assert changed.sum() == rows * columns
        assert rows * columns <= 144 / 3 + 12
    everything, _ = mixing(random_erasing=1.0)(images.clone(), labels, 0, 0)
    assert not any(torch.equal(a, b) for a, b in zip(everything, images, strict=True))


def test_a_batch_depends_on_seed_epoch_and_step_alone(batch):
    def result(seed=0, epoch=1, step=2):
        images, targets = mixing(0.5, 0.5, seed)(batch[0].clone(), batch[1], epoch, step)
        return torch.cat([images.flatten(), targets.flatten()])

    first = result()
    torch.manual_seed(99)
    random.seed(99)
    assert torch.equal(result(), first)
    for other in ({"seed": 1}, {"epoch": 2}, {"step": 3}):
        assert not torch.equal(result(**other), first)


def test_the_random_numbers_of_the_run_are_left_as_they_were(batch):
    before = torch.get_rng_state(), random.getstate()
    mixing(0.5, 0.5)(*batch, 0, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def setup(run_dir, **flags):
    return training.setup(training.config_from_flags(tiny_flags(run_dir, epochs=1, **flags)))


def test_training_images_are_erased_and_test_images_are_not(tmp_path):
    session, seen = setup(tmp_path, random_erasing=1.0), {True: [], False: []}

    def look(model, args):
        seen[model.training].append((args[0] == 0).flatten(1).any(1))  # no pixel of a digit is exactly the mean

    session.model.register_forward_pre_hook(look)
    training.fit(session)
    assert torch.cat(seen[True]).all()
    assert not torch.cat(seen[False]).any()


def test_training_targets_are_mixed(tmp_path):
    seen = []

    class Recording(Objective):
        def __call__(self, outputs, targets, images):
            seen.append(targets)
            return super().__call__(outputs, targets, images)

    session = setup(tmp_path, mixup=1.0)
    session.objective = Recording(session.config)
    training.fit(session)
    targets = torch.cat(seen)
    assert targets.shape == (14 * 100, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(14 * 100))
    assert ((targets > 0).sum(1) == 2).float().mean() > 0.7  # but where both images are of one class


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_hinge"])
def test_it_resumes_exactly(tmp_path, loss):
    flags = {"mixup": 0.2, "random_erasing": 0.5, "label_smoothing": 0.1, "loss": loss}
    assert_resumes_exactly(tmp_path, epochs=3, batch_size=100, **flags)
