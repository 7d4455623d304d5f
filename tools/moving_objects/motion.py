"""How the camera moved between two pictures: tracked grid points and a homography."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SPACING = (32, 24)  # pixels between grid points, x and y
WINDOW = (10, 10)  # pixels compared around a point
LEVELS = 2  # times the halved picture is halved again
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

    Pyramidal Lucas-Kanade on halved pictures, then RANSAC with an error of 1 pixel of the pictures themselves: OpenCV's
    later one, whose random numbers start anew in each call.
    """
    points = grid_points(*grey.shape)
    if len(points) < MIN_MATCHES:
        return Motion(np.eye(3), len(points), False)
    smaller = [cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for picture in (previous, grey)]
    # Pixel 0 of a halved picture lies between pixels 0 and 1.
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        *smaller, (points - 0.5) / 2, None, winSize=WINDOW, maxLevel=LEVELS, criteria=CRITERIA
    )
    found = 2 * found + 0.5
    tracked = status.ravel() == 1
    matches = int(tracked.sum())
    if matches < MIN_MATCHES:
        return Motion(np.eye(3), matches, False)
    homography, _ = cv2.findHomography(found[tracked], points[tracked], cv2.USAC_FAST, INLIER)
    if homography is None:
        return Motion(np.eye(3), matches, False)
    return Motion(homography, matches, True)
