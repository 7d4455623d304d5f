"""Where pictures come from: a video file, a camera, a directory of frames, or one of masks and frames."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

PICTURES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEFAULT_FPS = 20.0  # of a directory, and of a video that does not say
MOST_BAD_FRAMES = 30  # in a row: the camera is gone


class Frame(NamedTuple):
    """One picture.

    Attributes:
        number: from 1, as in MOT files.
        image: (height, width, 3) uint8 BGR.
        mask: its foreground (height, width) uint8, where it was computed beforehand.
    """

    number: int
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None = None


class SourceLost(RuntimeError):
    """The pictures stopped before their end; the message says why in one sentence."""


class Source:
    """Pictures in order: iterate once.

    Attributes:
        fps: pictures a second of the original.
        bad_frames: pictures left out because they were empty or could not be decoded.
    """

    fps = DEFAULT_FPS
    bad_frames = 0

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError


class VideoSource(Source):
    """A video file, or the camera of an index. Empty frames are left out; 30 in a row end the run.

    Raises FileNotFoundError or ValueError for what cannot be opened.
    """

    def __init__(self, path: Path | int):
        if isinstance(path, Path) and not path.is_file():
            raise FileNotFoundError(f"there is no video {str(path)!r}; give a file, a directory or a camera's number")
        self.name = f"camera {path}" if isinstance(path, int) else repr(str(path))
        self.is_camera = isinstance(path, int)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: what is wrong is said below
        with quiet():
            self.capture = cv2.VideoCapture(path if self.is_camera else str(path))
        if not self.capture.isOpened():
            hint = "is it connected and free?" if self.is_camera else "is it a whole video that ffmpeg knows?"
            raise ValueError(f"OpenCV cannot open {self.name}; {hint}")
        fps = self.capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 1000 else DEFAULT_FPS

    def __iter__(self) -> Iterator[Frame]:
        """Raises ValueError where not one frame can be decoded, SourceLost where the camera or file breaks off."""
        number = bad = 0
        while bad < MOST_BAD_FRAMES:
            with quiet():
                decoded, image = self.capture.read()
            if not decoded and not self.is_camera:
                break
            number += 1
            if not decoded or image.size == 0:
                bad += 1
                self.bad_frames += 1
                continue
            bad = 0
            yield Frame(number, as_bgr(image))
        self._check_end(number)

    def _check_end(self, number: int) -> None:
        good = number - self.bad_frames
        if good == 0:
            raise ValueError(f"{self.name} gave no frame that can be decoded; use another file or camera")
        if self.is_camera:
            raise SourceLost(f"{self.name} gave no picture {MOST_BAD_FRAMES} times in a row after {good} frames")
        promised = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if promised - number > max(1, promised // 100):  # some containers only estimate the count
            raise SourceLost(f"{self.name} breaks off after frame {number} of {promised}; the file is damaged")


class FrameDirectory(Source):
    """The pictures of a directory in sorted order. Raises FileNotFoundError for one without any."""

    def __init__(self, path: Path):
        self.paths = find_pictures(path)

    def __iter__(self) -> Iterator[Frame]:
        """Raises ValueError for a file that is not a picture."""
        for number, path in enumerate(self.paths, start=1):
            yield Frame(number, read_picture(path, cv2.IMREAD_COLOR))


class MaskDirectory(Source):
    """A directory whose pictures are, in sorted order, mask, frame, mask, frame, and so on.

    Raises FileNotFoundError for a directory without pictures, ValueError for an odd number of them.
    """

    def __init__(self, path: Path):
        self.paths = find_pictures(path)
        if len(self.paths) % 2:
            raise ValueError(
                f"{str(path)!r} holds {len(self.paths)} pictures; pairs of a mask and its frame, in sorted order, "
                "need an even number"
            )

    def __iter__(self) -> Iterator[Frame]:
        """Raises ValueError for a file that is not a picture, or a mask of another size than its frame."""
        pairs = zip(self.paths[::2], self.paths[1::2], strict=True)
        for number, (mask_path, image_path) in enumerate(pairs, start=1):
            mask = read_picture(mask_path, cv2.IMREAD_GRAYSCALE)
            image = read_picture(image_path, cv2.IMREAD_COLOR)
            if mask.shape != image.shape[:2]:
                raise ValueError(
                    f"mask {str(mask_path)!r} is {mask.shape[1]}x{mask.shape[0]} and its frame {str(image_path)!r} "
                    f"{image.shape[1]}x{image.shape[0]}; sorted names must alternate mask, frame of one size"
                )
            # Above the middle, as lossy formats leave grey around a white region.
            yield Frame(number, image, cv2.threshold(mask, 127, 255, cv2.THRESH_BINARY)[1])


def open_source(name: str, has_masks: bool = False) -> Source:
    """What ``--video`` names: a camera's number, a directory or a file.

    Args:
        has_masks: the directory holds masks and frames.

    Raises FileNotFoundError or ValueError, in one sentence.
    """
    path = Path(name).expanduser()
    if has_masks:
        return MaskDirectory(path)
    if path.is_dir():
        return FrameDirectory(path)
    return VideoSource(int(name) if name.isdecimal() and not path.exists() else path)


def find_pictures(path: Path) -> list[Path]:
    """Sorted picture files. Raises FileNotFoundError for no directory, or one without any."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no directory {str(path)!r}; masks and frames are read from one")
    paths = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
    if not paths:
        raise FileNotFoundError(f"{str(path)!r} holds no pictures; known endings: {', '.join(PICTURES)}")
    return paths


def read_picture(path: Path, mode: int) -> NDArray[np.uint8]:
    """A decoded file. Raises ValueError for one that is empty or no picture."""
    with quiet():
        image = cv2.imread(str(path), mode)
    if image is None or image.size == 0:
        raise ValueError(f"{str(path)!r} is not a readable picture; remove or replace it")
    return image


def as_bgr(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width, 3) from what a capture device gives, grey or colour."""
    return image if image.ndim == 3 and image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV's own remarks on what it cannot read off the screen: the error is ours to word."""
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)
