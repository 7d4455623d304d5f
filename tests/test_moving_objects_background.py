"""The background model against a loop over blocks in float64 that spells its rules out."""

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("cv2")

from tools.moving_objects.background import CERTAIN, BackgroundModel

# (height, width): the last blocks have a pixel or two; or three, and see beyond the edge while their centre is inside.
SIZES = [(30, 41), (31, 39)]


class SlowModel:
    """Block by block; a block's state is [mean, variance, age] for each of the two models."""

    def __init__(self, height, width):
        self.height, self.width = height, width
        self.rows, self.columns = math.ceil(height / 4), math.ceil(width / 4)
        places = itertools.product(range(self.rows), range(self.columns))
        self.blocks = {place: [[0.0, 400.0, 0.0], [0.0, 400.0, 0.0]] for place in places}

    def compensate(self, homography):
        self.blocks = {place: [self.mixed(place, m, homography) for m in (0, 1)] for place in self.blocks}

    def mixed(self, place, m, homography):
        row, column = place
        x, y, scale = homography @ [4 * column + 1.5, 4 * row + 1.5, 1]
        x, y = x / scale, y / scale
        outside = scale <= 0 or not (-0.5 <= x <= self.width - 0.5 and -0.5 <= y <= self.height - 0.5)
        neighbours = [] if outside else self.neighbours((y - 1.5) / 4, (x - 1.5) / 4)
        if outside:
            return [None, 400.0, 0.0]
        total = sum(weight for weight, _ in neighbours)
        states = [(weight / total, *self.blocks[block][m]) for weight, block in neighbours]
        mean = sum(weight * mean for weight, mean, _, _ in states)
        variance = max(25, sum(weight * (variance + (mean - own) ** 2) for weight, own, variance, _ in states))
        age = sum(weight * age for weight, _, _, age in states)
        return [mean, variance, min(30, age * math.exp(-0.001 * max(0, variance - 2500)))]

    def neighbours(self, row, column):
        """(weight, block) of the up to four blocks around a place that exist."""
        near = []
        for r in (math.floor(row), math.floor(row) + 1):
            for c in (math.floor(column), math.floor(column) + 1):
                if (r, c) in self.blocks:
                    near.append(((1 - abs(row - r)) * (1 - abs(column - c)), (r, c)))
        return near

    def update(self, grey):
        for (row, column), models in self.blocks.items():
            pixels = block_pixels(grey, row, column)
            mean = sum(pixels) / 16
            if models[1][2] > models[0][2]:
                models[0], models[1] = models[1], [mean, 400.0, 0.0]
            chosen = next((m for m in models if m[0] is None or (mean - m[0]) ** 2 < 2 * m[1]), None)
            if chosen is None:
                chosen = models[1] = [mean, 400.0, 0.0]
            self.learn(chosen, mean, pixels)

    @staticmethod
    def learn(model, mean, pixels):
        old_mean, variance, age = model
        rate = age / (age + 1)
        new_mean = mean if age == 0 else rate * old_mean + (1 - rate) * mean
        observed = max((p - new_mean) ** 2 for p in pixels)
        new_variance = max(400, observed) if age == 0 else rate * variance + (1 - rate) * observed
        model[:] = [new_mean, new_variance, min(30, age + 1)]

    def foreground(self, grey, variances=4):
        mask = np.zeros((self.height, self.width), np.uint8)
        for y in range(self.height):
            for x in range(self.width):
                mean, variance, age = self.blocks[y // 4, x // 4][0]
                if age > 1 and (float(grey[y, x]) - mean) ** 2 > variances * variance:
                    mask[y, x] = 255
        return mask


def block_pixels(grey, row, column):
    return [
        float(grey[min(y, len(grey) - 1), min(x, grey.shape[1] - 1)])
        for y in range(4 * row, 4 * row + 4)
        for x in range(4 * column, 4 * column + 4)
    ]


def picture(rng, frame, height, width):
    """Blocky patches with noise; a bright square crosses them and stays for some frames at a time."""
    patches = np.kron(np.random.default_rng(1).integers(40, 160, (5, 6)), np.ones((7, 7)))[:height, :width]
    grey = patches + rng.normal(0, 1.5, (height, width))
    at = 4 * (frame // 3)
    grey[8:18, at : at + 9] = 230 + rng.normal(0, 3, grey[8:18, at : at + 9].shape)
    return np.clip(grey, 0, 255).astype(np.uint8)


def camera(frame):
    """Shifts, turns and a little perspective; some blocks leave the picture."""
    angle, shift = 0.01 * math.sin(frame), 1.7 * math.cos(frame)
    return np.array(
        [[math.cos(angle), -math.sin(angle), shift], [math.sin(angle), math.cos(angle), -shift / 2], [1e-4, 0, 1]]
    )


def fill_unseen_means(slow, fast):
    """A model without age has no mean yet: take the one it is given, so that both go on alike."""
    for (row, column), models in slow.blocks.items():
        for m, model in enumerate(models):
            if model[0] is None:
                model[0] = float(fast.mean[m, row * slow.columns + column])


@pytest.mark.parametrize("size", SIZES)
def test_model_equals_the_loop_over_blocks(size):
    rng = np.random.default_rng(0)
    fast, slow = BackgroundModel(*size), SlowModel(*size)
    foreground = outside = 0
    for frame in range(24):
        grey = picture(rng, frame, *size)
        fast.compensate(camera(frame))
        slow.compensate(camera(frame))
        outside += sum(model[0] is None for models in slow.blocks.values() for model in models)
        fill_unseen_means(slow, fast)
        fast.update(grey)
        slow.update(grey)
        mask = fast.foreground()
        states = np.array(list(slow.blocks.values()))  # (blocks, model, state)
        for index, state in enumerate((fast.mean, fast.variance, fast.age)):
            np.testing.assert_allclose(state, states[:, :, index].T, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(mask, slow.foreground(grey))
        np.testing.assert_array_equal(fast.foreground(CERTAIN), slow.foreground(grey, 9))
        foreground += int((mask > 0).sum())
    assert foreground > 100
    assert outside > 20


def test_still_picture_reaches_the_limits_of_age_and_variance_without_foreground():
    grey = np.random.default_rng(0).integers(100, 103, (16, 16), dtype=np.uint8)
    model = BackgroundModel(16, 16)
    masks = [model.apply(grey, np.eye(3)) for _ in range(40)]
    assert not np.any(masks)
    np.testing.assert_array_equal(model.age[0], 30)
    model.compensate(np.eye(3))
    np.testing.assert_array_equal(model.variance[0], 25)


def test_object_that_passes_does_not_soil_the_background():
    grey, passing = np.full((8, 8), 100, np.uint8), np.full((8, 8), 220, np.uint8)
    model = BackgroundModel(8, 8)
    for _ in range(20):
        model.apply(grey, np.eye(3))
    assert all(model.apply(passing, np.eye(3)).all() for _ in range(5))
    assert not model.apply(grey, np.eye(3)).any()
    np.testing.assert_array_equal(model.mean[0], 100)


def test_object_that_stays_longer_becomes_the_background():
    model = BackgroundModel(8, 8)
    for grey in (100,) * 5 + (220,) * 8:
        mask = model.apply(np.full((8, 8), grey, np.uint8), np.eye(3))
    assert not mask.any()
    np.testing.assert_array_equal(model.mean[0], 220)


def test_camera_beyond_the_picture_starts_anew():
    model = BackgroundModel(16, 16)
    for _ in range(10):
        model.apply(np.full((16, 16), 90, np.uint8), np.eye(3))
    model.compensate(np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]]))
    assert not model.age.any()
    assert (model.variance == 400).all()


def test_points_behind_the_camera_count_as_outside():
    model = BackgroundModel(16, 16)
    model.apply(np.full((16, 16), 90, np.uint8), np.eye(3))
    model.compensate(-np.eye(3))
    assert not model.age.any()
