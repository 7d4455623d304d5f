"""Picture after picture in, boxes of moving objects out."""

import contextlib
import time
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from .background import CERTAIN, BackgroundModel
from .motion import Motion, estimate_motion
from .regions import Box, find_regions

MEDIAN = 5  # pixels a side
DETECTION_STAGES = ("motion", "background", "regions")
STAGES = ("read", *DETECTION_STAGES, "classify", "write")


class Stopwatch:
    """Adds up where the time goes.

    Attributes:
        seconds: by stage.
    """

    def __init__(self):
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


class Detector:
    """Moving objects of one video.

    A picture of another size than the one before starts a new background.

    Attributes:
        motion: the camera's, before the last picture; None for a first picture.
        mask: the last foreground (height, width), 255 or 0.
    """

    def __init__(self, stopwatch: Stopwatch | None = None):
        self.stopwatch = stopwatch or Stopwatch()
        self.motion: Motion | None = None
        self.mask: NDArray[np.uint8] | None = None
        self._previous: NDArray[np.uint8] | None = None
        self._model: BackgroundModel | None = None

    def __call__(self, image: NDArray[np.uint8]) -> list[Box]:
        """The boxes in the next picture, (height, width, 3) BGR."""
        with self.stopwatch("motion"):
            grey = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), MEDIAN)
            is_first = self._previous is None or self._previous.shape != grey.shape
            self.motion = None if is_first else estimate_motion(self._previous, grey)
        with self.stopwatch("background"):
            if is_first:
                self._model = BackgroundModel(*grey.shape)
            homography = np.eye(3) if self.motion is None else self.motion.homography
            self.mask = self._model.apply(grey, homography)
        self._previous = grey
        with self.stopwatch("regions"):
            return find_regions(self.mask, self._model.foreground(CERTAIN))
