"""Detection as a whole: known boxes in a made video, a still scene, and a real hand-held camera."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2
import woman_boxes

from tools.moving_objects.box_scores import Item, Scores, evaluate, pairwise_iou
from tools.moving_objects.detector import Detector
from tools.moving_objects.regions import find_regions
from tools.moving_objects.synthetic import Camera, render

pytestmark = pytest.mark.core

WOMAN = Path(__file__).parents[2] / "shared/data/video/woman.mp4"
WARM_UP, FRAMES = 30, 100


@pytest.fixture(scope="module", params=[0, 1])
def video(request):
    return list(render(FRAMES, seed=request.param))


def score(video, detect) -> Scores:
    truth = {n: [Item(box, name) for name, box in boxes] for n, (_, boxes) in enumerate(video, start=1)}
    found = {n: [Item(box) for box in detect(image)] for n, (image, _) in enumerate(video, start=1)}
    return evaluate(found, truth, range(WARM_UP + 1, FRAMES + 1))


def test_moving_objects_are_found(video):
    scores = score(video, Detector())
    assert scores.objects > 100
    assert scores.recall >= 0.9
    assert scores.precision >= 0.8


def test_a_subtractor_without_compensation_is_far_worse(video):
    subtractor = cv2.createBackgroundSubtractorMOG2(detectShadows=False)

    def detect(image):
        grey = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 5)
        return find_regions(subtractor.apply(grey))

    assert score(video, detect).precision < 0.5 * score(video, Detector()).precision


def test_so_is_the_same_model_without_compensation(video, monkeypatch):
    monkeypatch.setattr("tools.moving_objects.background.BackgroundModel.compensate", lambda self, homography: None)
    scores = score(video, Detector())
    assert scores.precision < 0.5


@pytest.mark.parametrize("camera", [Camera(0, 0, 0), Camera()], ids=["still", "moving"])
def test_a_scene_where_nothing_moves_gives_no_object(camera):
    detect = Detector()
    boxes = [detect(image) for image, _ in render(60, objects=(), camera=camera)]
    assert not any(boxes[5:])


def test_a_new_picture_size_starts_a_new_background():
    detect = Detector()
    images = [image for image, _ in render(6)]
    for image in images[:3]:
        detect(image)
    detect(cv2.resize(images[3], (200, 100)))
    assert detect.motion is None
    assert detect.mask.shape == (100, 200)
    detect(cv2.resize(images[4], (200, 100)))
    assert detect.motion is not None


@pytest.mark.skipif(not WOMAN.exists(), reason="the video woman.mp4 is not in ../shared/data/video")
def test_woman_is_found_by_a_hand_held_camera():
    known = np.array(list(woman_boxes.READ_OFF.values()))
    capture, detect = cv2.VideoCapture(str(WOMAN)), Detector()
    found = []
    for number in range(1, 480):
        decoded, image = capture.read()
        assert decoded
        boxes = detect(image)
        if number > WARM_UP:
            # Between the frames read off, the place is interpolated; the camera shakes, so a low overlap counts,
            # which a box around half of the picture does not reach.
            woman = np.array([[np.interp(number, list(woman_boxes.READ_OFF), side) for side in known.T]])
            found.append(bool(boxes) and pairwise_iou(np.array(boxes, float), woman).max() > 0.1)
    assert np.mean(found) >= 0.8


@pytest.mark.skipif(not WOMAN.exists(), reason="the video woman.mp4 is not in ../shared/data/video")
def test_boxes_fit_the_woman():
    images, detect = woman_boxes.read(WOMAN), Detector()
    truth = {frame: [Item(box)] for frame, box in woman_boxes.boxes(images).items()}
    found = {n: [Item(box) for box in detect(image)] for n, image in enumerate(images, start=1)}
    scores = evaluate(found, truth, truth)
    assert scores.objects == 421
    assert scores.recall >= 0.6
    assert scores.precision >= 0.5
    assert evaluate(found, {n: truth[n] for n in woman_boxes.READ_OFF}, woman_boxes.READ_OFF).recall >= 0.65


def test_the_same_video_gives_the_same_boxes(video):
    first, second = Detector(), Detector()
    assert all(first(image) == second(image) for image, _ in video)
