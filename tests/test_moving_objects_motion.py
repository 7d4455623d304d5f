"""Camera motion against a known homography, and regions against drawn masks."""

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2

from tools.moving_objects.motion import estimate_motion, grid_points
from tools.moving_objects.regions import Box, find_regions, join_near
from tools.moving_objects.synthetic import texture

pytestmark = pytest.mark.core


def corners(height, width):
    return np.array([[[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]]], np.float64)


@pytest.mark.parametrize("moving_square", [False, True])
def test_known_homography_is_found(moving_square):
    scene = cv2.cvtColor(texture(400, 480, np.random.default_rng(0)), cv2.COLOR_BGR2GRAY)
    angle = np.radians(1.5)
    known = np.array([[np.cos(angle), -np.sin(angle), 6.0], [np.sin(angle), np.cos(angle), -4.0], [2e-5, 1e-5, 1.0]])
    view = (slice(50, 338), slice(60, 412))
    to_view = np.array([[1.0, 0, -60], [0, 1, -50], [0, 0, 1]])
    # A present pixel p shows what the previous picture had at known @ p.
    previous = scene[view].copy()
    present = cv2.warpPerspective(
        scene, np.linalg.inv(to_view) @ known @ to_view, (480, 400), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )[view].copy()
    if moving_square:  # an object with a motion of its own must not pull the camera's
        previous[100:180, 100:190] = scene[:80, :90]
        present[100:180, 112:202] = scene[:80, :90]
    motion = estimate_motion(previous, present)
    expected = cv2.perspectiveTransform(corners(288, 352), known)
    assert motion.known
    np.testing.assert_allclose(cv2.perspectiveTransform(corners(288, 352), motion.homography), expected, atol=0.5)


def test_grid_spacing():
    points = grid_points(288, 352).reshape(-1, 2)
    assert len(points) == 132
    assert set(np.diff(np.unique(points[:, 0]))) == {32}
    assert set(np.diff(np.unique(points[:, 1]))) == {24}


@pytest.mark.parametrize("size", [(288, 352), (40, 40), (2, 3)])
def test_fewer_than_ten_matches_count_as_a_still_camera(size):
    blank = np.full(size, 128, np.uint8)
    motion = estimate_motion(blank, blank)
    assert not motion.known
    np.testing.assert_array_equal(motion.homography, np.eye(3))


def mask_of(*rectangles):
    mask = np.zeros((200, 300), np.uint8)
    for x1, y1, x2, y2 in rectangles:
        mask[y1:y2, x1:x2] = 255
    return mask


@pytest.mark.parametrize(
    ("rectangles", "boxes"),
    [
        ([(50, 60, 90, 100)], [(46, 56, 94, 104)]),  # a border of 4
        ([(0, 0, 30, 30), (260, 170, 300, 200)], [(0, 0, 34, 34), (256, 166, 300, 200)]),  # cut to the picture
        ([(50, 60, 60, 100), (100, 60, 140, 70)], []),  # 10 = 5% of 200: too narrow, too low
        ([(50, 60, 61, 71)], [(46, 56, 65, 75)]),
        ([(50, 60, 80, 90), (82, 60, 110, 90)], [(46, 56, 114, 94)]),  # 2 = 1% of 200 apart: one object
        ([(50, 60, 80, 90), (83, 60, 110, 90)], [(46, 56, 84, 94), (79, 56, 114, 94)]),
        ([(50, 60, 80, 90), (50, 100, 80, 130)], [(46, 56, 84, 134)]),  # 10 = 5% of 200 above one another: one object
        ([(50, 60, 80, 90), (50, 101, 80, 130)], [(46, 56, 84, 94), (46, 97, 84, 134)]),
        ([(50, 60, 80, 66), (50, 70, 80, 76)], [(46, 56, 84, 80)]),  # each too low by itself
        ([], []),
    ],
)
def test_regions_of_a_mask(rectangles, boxes):
    assert find_regions(mask_of(*rectangles)) == boxes


@pytest.mark.parametrize(("certain", "kept"), [(45, True), (44, False), (0, False)])
def test_a_region_with_few_certain_pixels_is_left_out(certain, kept):
    mask = mask_of((50, 60, 80, 90), (200, 60, 230, 90))  # 900 pixels each, of which 5% are 45
    sure = np.zeros_like(mask)
    sure[60:90, 50:80] = 255
    sure[60:90, 200:230].flat[:certain] = 255
    assert find_regions(mask, sure) == [(46, 56, 84, 94)] + kept * [(196, 56, 234, 94)]


def test_joining_goes_on_until_nothing_is_near():
    # The first two join only through the third, and their union reaches the fourth.
    boxes = [Box(0, 0, 10, 10), Box(20, 0, 30, 10), Box(9, 0, 21, 40), Box(25, 30, 40, 38)]
    assert join_near(boxes, 0) == [(0, 0, 40, 40)]
