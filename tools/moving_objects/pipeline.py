"""The run: read, detect, classify, write, picture after picture."""

import dataclasses
from collections.abc import Iterator
from itertools import islice

from .box_scores import Boxes, Item
from .classify import Classifier
from .detector import Detector, Stopwatch
from .output import Detection, Recorder, show
from .regions import find_regions
from .sources import Frame, Source


@dataclasses.dataclass
class Results:
    """What a run found so far.

    Attributes:
        boxes: by frame number; a frame without an object has an empty list.
        frames: pictures processed.
        restarts: times the picture's size changed, and the background started anew.
        unknown_motion: frames whose camera motion could not be found; the camera counted as still.
        stopwatch: seconds by stage.
    """

    boxes: Boxes = dataclasses.field(default_factory=dict)
    frames: int = 0
    restarts: int = 0
    unknown_motion: int = 0
    stopwatch: Stopwatch = dataclasses.field(default_factory=Stopwatch)


class Pipeline:
    """Everything that a picture goes through.

    Attributes:
        results: also after an exception, those of the pictures before it.
    """

    def __init__(self, source: Source, classifier: Classifier | None, recorder: Recorder | None, window: bool = False):
        self.source, self.classifier, self.recorder, self.window = source, classifier, recorder, window
        self.results = Results()
        self._detector = Detector(self.results.stopwatch)

    def run(self, most_frames: int | None = None) -> None:
        """Process the source to its end, ``most_frames`` or the window's key.

        Raises what the source, the recorder and the window raise.
        """
        for frame in islice(self._timed_frames(), most_frames):
            detections = self._detect(frame)
            self.results.frames += 1
            self.results.boxes[frame.number] = [Item(d.box, d.label and d.label.name) for d in detections]
            if not self._write(frame, detections):
                return

    def _timed_frames(self) -> Iterator[Frame]:
        frames = iter(self.source)
        while True:
            with self.results.stopwatch("read"):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _detect(self, frame: Frame) -> list[Detection]:
        stopwatch = self.results.stopwatch
        if frame.mask is None:
            boxes = self._detector(frame.image)
            self._count_fallbacks()
        else:
            with stopwatch("regions"):
                boxes = find_regions(frame.mask)
        if self.classifier is None:
            return [Detection(box) for box in boxes]
        with stopwatch("classify"):
            labels = self.classifier(frame.image, boxes)
        return [Detection(box, label) for box, label in zip(boxes, labels, strict=True)]

    def _write(self, frame: Frame, detections: list[Detection]) -> bool:
        """Record and show; False where the user closed the window."""
        if self.recorder is None and not self.window:
            return True
        with self.results.stopwatch("write"):
            if self.recorder is not None:
                self.recorder.write(frame.number, frame.image, detections)
            return not self.window or show(frame.image, detections)

    def _count_fallbacks(self) -> None:
        motion = self._detector.motion
        if motion is None:
            self.results.restarts += self.results.frames > 0
        elif not motion.known:
            self.results.unknown_motion += 1
