"""Where the woman of ../shared/data/video/woman.mp4 is, in every frame from the 40th to the 460th.

    python tests/woman_boxes.py ../shared/data/video/woman.mp4 runs/woman.jsonl

writes ground truth for tools/moving_objects. Every twentieth frame was read off by eye. Between two of them the box
goes evenly from the one to the other on the background, which is followed from frame to frame: the hand that holds the
camera shakes, and a place between two places in the picture would be beside her. The background is followed by corners,
apart from the detector that is scored.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

# x1, y1, x2, y2 by frame, from 1.
READ_OFF = {
    40: (212, 108, 248, 208),
    60: (207, 103, 258, 200),
    80: (200, 120, 245, 202),
    100: (213, 122, 236, 165),
    120: (230, 122, 262, 195),
    140: (225, 115, 268, 195),
    160: (220, 106, 242, 170),
    180: (208, 137, 234, 195),
    200: (207, 136, 236, 222),
    220: (206, 124, 236, 202),
    240: (161, 100, 201, 152),
    260: (135, 100, 174, 172),
    280: (147, 112, 198, 200),
    300: (150, 105, 192, 190),
    320: (159, 100, 196, 160),
    340: (153, 94, 186, 192),
    360: (150, 78, 178, 168),
    380: (150, 120, 180, 200),
    400: (164, 98, 192, 172),
    420: (137, 92, 163, 168),
    440: (148, 103, 178, 178),
    460: (214, 45, 282, 192),
}


def boxes(images: list[NDArray[np.uint8]]) -> dict[int, tuple[float, float, float, float]]:
    """By frame, those read off and those between, of a video's pictures (height, width, 3)."""
    to_first = followed(images)
    numbers = list(READ_OFF)
    found = {}
    for before, after in zip(numbers, numbers[1:], strict=False):
        for frame in range(before, after + 1):
            share = (frame - before) / (after - before)
            ends = [moved(READ_OFF[end], to_first[end], to_first[frame]) for end in (before, after)]
            found[frame] = tuple((1 - share) * ends[0] + share * ends[1])
    return found


def followed(images: list[NDArray[np.uint8]]) -> dict[int, NDArray[np.float64]]:
    """By frame, from 1: the homography (3, 3) from its pixels to those of the first frame."""
    greys = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]
    homographies = {1: np.eye(3)}
    for frame, (previous, grey) in enumerate(zip(greys, greys[1:], strict=False), start=2):
        corners = cv2.goodFeaturesToTrack(grey, 400, 0.01, 8)
        found, status, _ = cv2.calcOpticalFlowPyrLK(grey, previous, corners, None)
        kept = status.ravel() == 1
        step, _ = cv2.findHomography(corners[kept], found[kept], cv2.RANSAC, 1.0)
        homographies[frame] = homographies[frame - 1] @ step
        homographies[frame] /= homographies[frame][2, 2]
    return homographies


def moved(box: tuple[int, int, int, int], here: NDArray[np.float64], there: NDArray[np.float64]) -> NDArray[np.float64]:
    """A box of one frame where its middle is in another; its size stays."""
    low, high = np.array(box[:2], float), np.array(box[2:], float)
    middle = np.linalg.solve(there, here @ [*(low + high) / 2, 1])
    shift = middle[:2] / middle[2] - (low + high) / 2
    return np.concatenate([low + shift, high + shift])


def read(path: Path) -> list[NDArray[np.uint8]]:
    capture, images = cv2.VideoCapture(str(path)), []
    while (decoded := capture.read())[0]:
        images.append(decoded[1])
    return images


def main() -> None:
    video, out = map(Path, sys.argv[1:])
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = ({"frame": frame, "class": "person", "box": list(box)} for frame, box in boxes(read(video)).items())
    out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
