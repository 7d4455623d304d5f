"""What a run leaves: an annotated video, a line a box, pictures, and a summary."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .classify import Label
from .regions import Box

VIDEO, DETECTIONS, SUMMARY = "video.avi", "detections.jsonl", "summary.json"
# Every picture on its own, in a container that needs no ending: a run that is cut leaves a video that plays.
CODEC = "MJPG"
WINDOW = "moving objects"
COLOUR = (0, 0, 255)
WHITE = (255, 255, 255)
FONT, SIZE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
QUIT_KEYS = (ord("q"), 27)


@dataclasses.dataclass(frozen=True)
class Detection:
    """A box; class and score are None without a classifier."""

    box: Box
    label: Label | None = None

    def as_json(self, frame: int) -> str:
        """One line: frame, class, score, box."""
        name, score = (None, None) if self.label is None else (self.label.name, round(self.label.score, 4))
        return json.dumps({"frame": frame, "class": name, "score": score, "box": self.box})


def draw(image: NDArray[np.uint8], detections: Sequence[Detection]) -> NDArray[np.uint8]:
    """A copy of a picture with boxes, and classes where they are known."""
    drawn = image.copy()
    for detection in detections:
        x1, y1, x2, y2 = detection.box
        cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), COLOUR, 2)
        if detection.label is not None:
            _write(drawn, f"{detection.label.name} {detection.label.score:.0%}", x1, y1 - 4 if y1 > 16 else y2 + 14)
    return drawn


def _write(image: NDArray[np.uint8], text: str, left: int, bottom: int) -> None:
    """White text on the boxes' colour, moved into the picture where it would leave it."""
    (width, height), below = cv2.getTextSize(text, FONT, SIZE, 1)
    left = max(0, min(left, image.shape[1] - width))
    bottom = min(bottom, image.shape[0] - below)
    cv2.rectangle(image, (left, bottom - height - 2), (left + width, bottom + below - 1), COLOUR, cv2.FILLED)
    cv2.putText(image, text, (left, bottom), FONT, SIZE, WHITE, 1, cv2.LINE_AA)


class Recorder:
    """Writes a run's results into a directory as they come.

    Pictures of another size than the first are scaled to the video's; the boxes in the lines stay in pixels
    of their own picture.

    Args:
        directory: made where it is missing.
        fps: of the video.
        pictures: numbers of the frames to save as pictures of their own.

    Raises ValueError where the directory holds results already, OSError where it cannot be written.
    """

    def __init__(self, directory: Path, fps: float, pictures: Collection[int] = ()):
        directory.mkdir(parents=True, exist_ok=True)
        if (directory / DETECTIONS).exists():
            raise ValueError(f"{str(directory)!r} holds results already; choose another --save")
        self.directory, self.fps, self.pictures = directory, fps, set(pictures)
        self._lines = (directory / DETECTIONS).open("w", encoding="utf-8")
        self._video: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, number: int, image: NDArray[np.uint8], detections: Sequence[Detection]) -> None:
        """Append frame ``number`` with its boxes. Raises OSError where the video cannot be written."""
        self._lines.writelines(detection.as_json(number) + "\n" for detection in detections)
        self._lines.flush()
        drawn = draw(image, detections)
        if self._video is None:
            self._open_video(image.shape[1], image.shape[0])
        if number in self.pictures:
            cv2.imwrite(str(self.directory / f"frame_{number:06d}.jpg"), drawn)
        self._video.write(drawn if drawn.shape[1::-1] == self._size else cv2.resize(drawn, self._size))

    def _open_video(self, width: int, height: int) -> None:
        path, self._size = str(self.directory / VIDEO), (width, height)
        self._video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*CODEC), self.fps, self._size)
        if not self._video.isOpened():
            raise OSError(f"OpenCV cannot write the video {path!r} of {width}x{height}; leave out --save")

    def close(self, summary: Mapping) -> None:
        """End the files and write the summary."""
        self._lines.close()
        if self._video is not None:
            self._video.release()
        (self.directory / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def check_windows() -> None:
    """Raises ValueError where OpenCV was built without windows."""
    if not cv2.currentUIFramework():
        raise ValueError(
            "--show: opencv-python-headless cannot show windows; replace it with opencv-python (pip uninstall "
            "opencv-python-headless, then pip install opencv-python), or write a video with --save DIR instead"
        )


def show(image: NDArray[np.uint8], detections: Sequence[Detection]) -> bool:
    """Show a picture with its boxes; False when the user presses q or Escape. Raises ValueError without a screen."""
    try:
        cv2.imshow(WINDOW, draw(image, detections))
        return cv2.waitKey(1) & 0xFF not in QUIT_KEYS
    except cv2.error as error:
        raise ValueError("OpenCV cannot show windows here (is there a screen?); leave out --show") from error
