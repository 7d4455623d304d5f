"""How the camera moved between two pictures: tracked grid points and a homography."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SPACING = (32, 24)  # pixels between grid points, x and y
WINDOW = (10, 10)  # pixels compared around a point
LEVELS = 3  # times the picture is halved
CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 0.03)
INLIER = 1.0  # pixels
MIN_MATCHES = 10


class Motion(NamedTuple):
    """The camera's motion.

    Attributes:
        homography: (3, 3) float64, from pixels of the present picture to pixels of the previous one.
        matches: grid points found again.
        known: False where there were too few, or they agreed on nothing: the camera counts as still.
    """

    homography: NDArray[np.float64]
    matches: int
    known: bool


def grid_points(height: int, width: int) -> NDArray[np.float32]:
    """(points, 1, 2): x, y in the middle of each cell of the grid."""
    x, y = (np.arange(step // 2, size, step) for step, size in zip(SPACING, (width, height), strict=True))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 1, 2).astype(np.float32)


def estimate_motion(previous: NDArray[np.uint8], grey: NDArray[np.uint8]) -> Motion:
    """From two grey pictures of one size; the identity under 10 matches.

    Pyramidal Lucas-Kanade, then RANSAC with an error of 1 pixel.
    """
    points = grid_points(*grey.shape)
    if len(points) < MIN_MATCHES:
        return Motion(np.eye(3), len(points), False)
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        previous, grey, points, None, winSize=WINDOW, maxLevel=LEVELS, criteria=CRITERIA
    )
    tracked = status.ravel() == 1
    matches = int(tracked.sum())
    if matches < MIN_MATCHES:
        return Motion(np.eye(3), matches, False)
    homography, _ = cv2.findHomography(found[tracked], points[tracked], cv2.RANSAC, INLIER)
    if homography is None:
        return Motion(np.eye(3), matches, False)
    return Motion(homography, matches, True)
