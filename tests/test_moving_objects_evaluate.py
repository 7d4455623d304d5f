"""Scores of boxes worked out by hand, and the formats of ground truth."""

import itertools
import json
import math

import numpy as np
import pytest

from tools.moving_objects.box_scores import (
    Item,
    evaluate,
    label_accuracy,
    match,
    pairwise_iou,
    read_boxes,
    same_class,
)

pytestmark = pytest.mark.core


def test_iou_of_known_boxes():
    a = np.array([[0, 0, 10, 10], [100, 100, 110, 110]], float)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]], float)
    np.testing.assert_allclose(pairwise_iou(a, b), [[1, 1 / 3, 0], [0, 0, 0]])


def test_matching_prefers_more_pairs_to_a_better_one():
    # The best pair, of IoU 1, would leave nothing for the two others; crosswise both find one, of IoU 1/3.
    ours = [(0, 0, 10, 10), (5, 0, 15, 10)]
    theirs = [(0, 0, 10, 10), (-5, 0, 5, 10)]
    assert {(i, j) for i, j, _ in match(ours, theirs, 0.3)} == {(1, 0), (0, 1)}


def test_matching_equals_trying_every_assignment():
    rng = np.random.default_rng(0)
    for _ in range(50):
        low = rng.uniform(0, 6, (7, 2))
        boxes = np.column_stack([low, low + rng.uniform(4, 10, (7, 2))])
        ours, theirs = boxes[:3].tolist(), boxes[3:].tolist()
        ious = pairwise_iou(boxes[:3], boxes[3:])
        sums = [
            [iou for iou in (ious[i, j] for i, j in enumerate(order)) if iou >= 0.4]
            for order in itertools.permutations(range(4), 3)
        ]
        count, total = max((len(pairs), sum(pairs)) for pairs in sums)
        found = [iou for _, _, iou in match(ours, theirs, 0.4)]
        assert (len(found), sum(found)) == (count, pytest.approx(total))


def test_scores_by_hand():
    truth = {1: [Item((0, 0, 10, 10), "car"), Item((50, 50, 60, 60), "dog")], 2: [Item((0, 0, 10, 10), "cat")]}
    found = {1: [Item((0, 0, 10, 8), "truck"), Item((20, 0, 30, 10), "dog")], 2: [Item((0, 0, 10, 10), "dog")]}
    scores = evaluate(found, truth, [1, 2])
    assert (scores.objects, scores.detections, scores.matches) == (3, 3, 2)
    assert scores.recall == scores.precision == pytest.approx(2 / 3)
    assert scores.iou == pytest.approx(0.9)
    assert scores.accuracy == 0.5  # the truck counts as a car, the dog not as a cat
    assert evaluate(found, truth, [1, 2], groups=()).accuracy == 0
    assert evaluate(found, truth, [1], threshold=0.9).matches == 0


def test_scores_of_nothing_are_nan_and_null_in_json():
    scores = evaluate({}, {}, [1])
    assert math.isnan(scores.recall)
    assert math.isnan(scores.precision)
    assert json.loads(json.dumps(scores.as_dict()))["recall"] is None


def test_car_and_truck_count_as_one():
    assert same_class("car", "truck")
    assert same_class("automobile", "car")
    assert not same_class("car", "ship")
    found = {1: [Item((0, 0, 1, 1), "truck"), Item((0, 0, 1, 1), "ship")], 2: [Item((0, 0, 1, 1), "automobile")]}
    assert label_accuracy(found, "car") == pytest.approx(2 / 3)
    assert label_accuracy(found, "ship") == pytest.approx(1 / 3)
    assert label_accuracy({1: []}, "car") is None


def test_ground_truth_formats_agree(tmp_path):
    (tmp_path / "gt.txt").write_text("1,7,11,21,30,40,1,3,1.0\n2,7,12,22,30,40,1,1,0.5\n2,9,1,1,5,5,0,1,1\n")
    entries = [
        {"frame": 1, "class": "car", "box": [10, 20, 40, 60]},
        {"frame": 2, "class": "pedestrian", "box": [11, 21, 41, 61]},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries, indent=1))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n")
    expected = {1: [Item((10, 20, 40, 60), "car")], 2: [Item((11, 21, 41, 61), "pedestrian")]}
    for name in ("gt.txt", "list.json", "lines.jsonl"):
        assert read_boxes(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gt.txt", "1,7,11,21,30,40\n1,2,3\n", "entry 2, holds no frame and box: '1,2,3'"),
        ("gt.txt", "1,7,11,21,-30,40\n", "entry 1"),
        ("gt.json", '[{"frame": 1}]', "entry 1"),
        ("gt.json", "[1", "is not JSON"),
        ("gt.jsonl", "frame 1", "entry 1"),
        ("gt.jsonl", '{"frame": 1, "box": [5, 5, 5, 9]}', "entry 1"),
    ],
)
def test_damaged_ground_truth(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_boxes(tmp_path / name)


def test_missing_ground_truth(tmp_path):
    with pytest.raises(FileNotFoundError, match="give boxes in MOT format"):
        read_boxes(tmp_path / "gt.txt")
