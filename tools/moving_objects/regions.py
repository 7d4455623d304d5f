"""From a foreground mask to boxes around objects."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 0.05  # of the picture's shorter side
NEAR = 0.01  # of the picture's shorter side
BORDER = 4  # pixels


class Box(NamedTuple):
    """A region of a picture: pixels x1 <= x < x2, y1 <= y < y2."""

    x1: int
    y1: int
    x2: int
    y2: int


def find_regions(mask: NDArray[np.uint8]) -> list[Box]:
    """Boxes of a mask (height, width), from left to right.

    Contours wider and higher than 5% of the shorter side, joined where they overlap or lie within 1% of it,
    with a border of 4 pixels inside the picture.
    """
    height, width = mask.shape
    side = min(height, width)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = map(cv2.boundingRect, contours)
    boxes = [Box(x, y, x + w, y + h) for x, y, w, h in rectangles if min(w, h) > MIN_SIDE * side]
    joined = join_near(boxes, NEAR * side)
    return sorted(grow(box, BORDER, height, width) for box in joined)


def join_near(boxes: list[Box], gap: float) -> list[Box]:
    """Replace boxes at most ``gap`` pixels apart in x and in y by the box around them, until none are left."""
    apart: list[Box] = []
    for box in boxes:
        while near := [other for other in apart if _is_near(box, other, gap)]:
            apart = [other for other in apart if other not in near]
            box = _around([box, *near])
        apart.append(box)
    return apart


def grow(box: Box, border: int, height: int, width: int) -> Box:
    """``box`` with ``border`` more pixels a side, cut to the picture."""
    return Box(
        max(box.x1 - border, 0), max(box.y1 - border, 0), min(box.x2 + border, width), min(box.y2 + border, height)
    )


def _is_near(a: Box, b: Box, gap: float) -> bool:
    return max(a.x1 - b.x2, b.x1 - a.x2, a.y1 - b.y2, b.y1 - a.y2) <= gap


def _around(boxes: list[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return Box(min(x1), min(y1), max(x2), max(y2))
