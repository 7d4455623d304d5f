"""From a foreground mask to boxes around objects."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 0.05  # of the picture's shorter side
NEAR = 0.01  # of the picture's shorter side
# Of the picture's shorter side, as high as the least object: parts of one thing that stand above each other. Clothes
# that are as bright as what they pass cut a person at the belt or the neck; side by side, NEAR keeps two people apart.
STACKED = 0.05
# Light that changes moves all pixels of a surface a little, so few of them are certain; of a thing that moves, many.
CERTAIN_SHARE = 0.05
BORDER = 4  # pixels


class Box(NamedTuple):
    """A region of a picture: pixels x1 <= x < x2, y1 <= y < y2."""

    x1: int
    y1: int
    x2: int
    y2: int


def find_regions(mask: NDArray[np.uint8], certain: NDArray[np.uint8] | None = None) -> list[Box]:
    """Boxes of a mask (height, width), from left to right.

    Gaps of up to 1% of the picture's shorter side, and of 5% from top to bottom, are closed. Contours wider and higher
    than 5% of it are joined where they overlap or lie within 1%, and get a border of 4 pixels inside the picture.

    Args:
        certain: that part of the mask which is surely foreground: what has less than 5% of it is left out.
    """
    height, width = mask.shape
    side = min(height, width)
    contours, _ = cv2.findContours(_closed(mask, side), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = map(cv2.boundingRect, contours)
    boxes = [Box(x, y, x + w, y + h) for x, y, w, h in rectangles if min(w, h) > MIN_SIDE * side]
    if certain is not None:
        boxes = [box for box in boxes if _count(certain, box) >= CERTAIN_SHARE * _count(mask, box)]
    joined = join_near(boxes, NEAR * side)
    return sorted(grow(box, BORDER, height, width) for box in joined)


def _closed(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """``mask`` without narrow gaps; a kernel of 2 k + 1 pixels closes those of 2 k."""
    kernel = np.ones([2 * int(gap * side / 2) + 1 for gap in (STACKED, NEAR)], np.uint8)
    return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)


def _count(mask: NDArray[np.uint8], box: Box) -> int:
    return cv2.countNonZero(mask[box.y1 : box.y2, box.x1 : box.x2])


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
