"""Detections against ground truth: IoU, precision, recall and accuracy of the classes."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

# Each group counts as one class.
GROUPS = (("car", "automobile", "truck"),)

# The numbers of the MOT benchmark.
MOT_CLASSES = (
    *("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person"),
    *("distractor", "occluder", "occluder on the ground", "occluder full", "reflection"),
)


class Item(NamedTuple):
    """An object in a picture.

    Attributes:
        box: x1, y1, x2, y2 in pixels.
        name: its class; None where unknown.
    """

    box: tuple[float, float, float, float]
    name: str | None = None


Boxes = dict[int, list[Item]]  # by frame number, from 1


@dataclasses.dataclass(frozen=True)
class Scores:
    """The result of :func:`evaluate`; NaN where there was nothing to divide by.

    Attributes:
        objects, detections, matches: how many in all counted frames.
        iou: mean of the matched pairs.
        accuracy: matched pairs of known class whose class is right.
    """

    objects: int
    detections: int
    matches: int
    iou: float
    accuracy: float

    @property
    def precision(self) -> float:
        return _ratio(self.matches, self.detections)

    @property
    def recall(self) -> float:
        return _ratio(self.matches, self.objects)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN."""
        values = {**dataclasses.asdict(self), "precision": self.precision, "recall": self.recall}
        return {name: None if np.isnan(value) else value for name, value in values.items()}

    def __str__(self) -> str:
        text = (
            f"recall {self.recall:.3f}, precision {self.precision:.3f}, mean IoU {self.iou:.3f} "
            f"({self.matches} matches of {self.objects} objects and {self.detections} detections)"
        )
        return text if np.isnan(self.accuracy) else f"{text}, classes {self.accuracy:.1%} right"


def evaluate(
    detections: Boxes,
    truth: Boxes,
    frames: Iterable[int],
    threshold: float = 0.5,
    groups: Sequence[Sequence[str]] = GROUPS,
) -> Scores:
    """Match the boxes of each of ``frames`` one to one, as many as overlap by ``threshold`` or more.

    Args:
        groups: classes that count as one.
    """
    objects = found = 0
    ious: list[float] = []
    right: list[bool] = []
    for frame in frames:
        ours, theirs = detections.get(frame, []), truth.get(frame, [])
        objects, found = objects + len(theirs), found + len(ours)
        for i, j, iou in match([item.box for item in ours], [item.box for item in theirs], threshold):
            ious.append(iou)
            if ours[i].name is not None and theirs[j].name is not None:
                right.append(same_class(ours[i].name, theirs[j].name, groups))
    return Scores(objects, found, len(ious), _ratio(sum(ious), len(ious)), _ratio(sum(right), len(right)))


def match(ours: Sequence, theirs: Sequence, threshold: float) -> list[tuple[int, int, float]]:
    """(index in ours, index in theirs, IoU) of the one-to-one assignment with most pairs of at least ``threshold``."""
    if not ours or not theirs:
        return []
    ious = pairwise_iou(np.array(ours, np.float64), np.array(theirs, np.float64))
    # A pair that counts is worth more than any gain in IoU: IoUs add up to at most min(len(ours), len(theirs)).
    worth = np.where(ious >= threshold, min(ious.shape) + ious, 0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return [(int(i), int(j), float(ious[i, j])) for i, j in zip(rows, columns, strict=True) if ious[i, j] >= threshold]


def pairwise_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) boxes x1, y1, x2, y2 -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    return overlap / (areas[0][:, None] + areas[1][None, :] - overlap)


def same_class(a: str, b: str, groups: Sequence[Sequence[str]] = GROUPS) -> bool:
    """Whether two classes are one, or of one group."""
    return a == b or any(a in group and b in group for group in groups)


def label_accuracy(detections: Boxes, label: str, groups: Sequence[Sequence[str]] = GROUPS) -> float | None:
    """The share of all boxes whose class is ``label`` or of its group; None without boxes."""
    right = [same_class(item.name, label, groups) for items in detections.values() for item in items]
    return sum(right) / len(right) if right else None


def read_boxes(path: Path) -> Boxes:
    """Ground truth or detections: a MOT file (``.txt``, ``.csv``), a JSON list, or JSON lines.

    MOT: ``frame, id, x, y, width, height[, counts[, class[, visibility]]]``, rows that do not count left out.
    JSON: objects with ``frame``, ``box`` (x1, y1, x2, y2) and perhaps ``class``.

    Raises FileNotFoundError for a missing file, ValueError for a line that cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; give boxes in MOT format (.txt) or as JSON")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    boxes: Boxes = defaultdict(list)
    if path.suffix.lower() in (".txt", ".csv"):
        rows, read = text.splitlines(), _read_mot
    elif text.startswith("["):
        rows, read = _load_json(text, path), _read_object
    else:
        rows, read = text.splitlines(), lambda line: _read_object(json.loads(line))
    for number, row in enumerate(rows, start=1):
        try:
            entry = read(row)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{str(path)!r}, entry {number}, holds no frame and box: {str(row)[:80]!r}") from error
        if entry is not None:
            boxes[entry[0]].append(entry[1])
    return dict(boxes)


def _load_json(text: str, path: Path) -> list:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not JSON ({error}); use another file, or JSON lines") from error


def _read_mot(line: str) -> tuple[int, Item] | None:
    frame, _, x, y, width, height, *rest = (float(field) for field in line.split(","))
    if rest and rest[0] == 0:
        return None
    index = int(rest[1]) - 1 if len(rest) > 1 else -1
    name = MOT_CLASSES[index] if 0 <= index < len(MOT_CLASSES) else None
    return int(frame), Item(_checked((x - 1, y - 1, x - 1 + width, y - 1 + height)), name)  # MOT counts pixels from 1


def _read_object(entry: Mapping) -> tuple[int, Item]:
    x1, y1, x2, y2 = map(float, entry["box"])
    return int(entry["frame"]), Item(_checked((x1, y1, x2, y2)), entry.get("class"))


def _checked(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    if not (box[2] > box[0] and box[3] > box[1]):
        raise ValueError("a box without area")
    return box


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
