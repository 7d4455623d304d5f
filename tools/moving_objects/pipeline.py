"""The run: read, detect, classify, write, picture after picture; and what it did, in numbers."""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from .box_scores import Boxes, Item
from .classify import Classifier
from .detector import DETECTION_STAGES, Detector, Stopwatch
from .output import Detection, Recorder, show
from .regions import find_regions
from .sources import Frame, Source

# What is worth a line only where it happened.
REMARKS = {
    "bad_frames": "{} frames were empty or could not be decoded and were left out",
    "restarts": "{} times the picture's size changed and the background started anew",
    "unknown_motion": "in {} frames the camera's motion could not be found; it counted as still",
}


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


def summarize(results: Results, bad_frames: int) -> dict[str, Any]:
    """Counts, and the speed of each stage."""
    return {
        "frames": results.frames,
        "boxes": sum(map(len, results.boxes.values())),
        "bad_frames": bad_frames,
        "restarts": results.restarts,
        "unknown_motion": results.unknown_motion,
        "speed": speed(results.frames, results.stopwatch.seconds),
    }


def speed(frames: int, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Milliseconds a frame and frames a second by stage, of detection alone, and of everything."""
    groups = {stage: (stage,) for stage in seconds}
    groups |= {"detection": DETECTION_STAGES, "total": tuple(seconds)}
    times = {name: sum(seconds[stage] for stage in stages) for name, stages in groups.items()}
    return {
        name: {"ms_per_frame": round(1000 * time / frames, 3), "fps": round(frames / time, 1)}
        for name, time in times.items()
        if time and frames
    }


def format_summary(summary: Mapping[str, Any]) -> str:
    """The summary as lines of text; "detection" adds up motion, background and regions."""
    lines = [f"{'stage':<12}{'ms/frame':>10}{'frames/s':>10}"]
    lines += [f"{name:<12}{row['ms_per_frame']:>10.2f}{row['fps']:>10.1f}" for name, row in summary["speed"].items()]
    lines.append(f"{summary['boxes']} boxes in {summary['frames']} frames")
    lines += [text.format(summary[key]) for key, text in REMARKS.items() if summary[key]]
    if "label" in summary:
        lines.append(f"label {summary['label']['class']}: accuracy {_number(summary['label']['accuracy'])}")
    if "scores" in summary:
        lines += [f"{name}: {_number(value)}" for name, value in summary["scores"].items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "nothing to count" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
