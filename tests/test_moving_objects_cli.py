"""The command line: what a run writes, and what it says to input that cannot be used."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2

from tools.moving_objects import pipeline, sources
from tools.moving_objects.classify import Classifier, Preparation
from tools.moving_objects.cli import main
from tools.moving_objects.output import Detection, Recorder
from tools.moving_objects.regions import Box
from tools.moving_objects.synthetic import main as make_video
from tools.moving_objects.synthetic import render

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with video.avi and ground_truth.jsonl."""
    directory = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["synthetic", str(directory), "--frames", "50"])
        make_video()
    return directory


@pytest.fixture
def frames(tmp_path):
    """A directory of twelve pictures."""
    directory = tmp_path / "frames"
    directory.mkdir()
    for number, (image, _) in enumerate(render(12)):
        cv2.imwrite(str(directory / f"{number:03d}.png"), image)
    return directory


def read_video(path):
    capture, images = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        images.append(frame[1])
    return images


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def fails(capsys, code, message, *arguments):
    assert main([str(argument) for argument in arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_writes_video_boxes_pictures_and_summary(made, tmp_path, capsys):
    save, truth = tmp_path / "out", made / "ground_truth.jsonl"
    command = ["--video", made / "video.avi", "--save", save, "--pictures", "40", "45", "--ground-truth", truth]
    command += ["--classifier", "none"]
    assert main([str(part) for part in command]) == 0
    assert sorted(path.name for path in save.iterdir()) == [
        "detections.jsonl",
        "frame_000040.jpg",
        "frame_000045.jpg",
        "summary.json",
        "video.avi",
    ]
    summary, found = json.loads((save / "summary.json").read_text()), lines(save / "detections.jsonl")
    assert len(read_video(save / "video.avi")) == summary["frames"] == 50
    assert len(found) == summary["boxes"] > 0
    assert set(found[0]) == {"frame", "class", "score", "box"}
    assert set(summary["speed"]) == {"read", "motion", "background", "regions", "write", "detection", "total"}
    assert summary["scores"]["recall"] > 0.8
    assert summary["scores"]["objects"] == sum(entry["frame"] > 30 for entry in lines(truth))
    assert "recall" in capsys.readouterr().out
    # The saved boxes give the scores of the run that saved them.
    assert main(["--detections", str(save / "detections.jsonl"), "--ground-truth", str(truth)]) == 0
    assert f"recall {summary['scores']['recall']:.3f}" in capsys.readouterr().out
    assert main([str(part) for part in command]) == 2
    assert "holds results already" in capsys.readouterr().err


def test_started_by_its_path_it_explains_itself():
    command = [sys.executable, "tools/moving_objects", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--ground-truth" in result.stdout


@pytest.fixture
def trucks(monkeypatch):
    """A classifier that calls everything a truck."""
    classifier = Classifier(
        lambda batch: np.tile(np.float32([0, 0, 5]), (len(batch), 1)),
        ["cat", "automobile", "truck"],
        Preparation((3, 8, 8), (0.5,) * 3, (0.5,) * 3),
    )
    monkeypatch.setattr("tools.moving_objects.cli.load_classifier", lambda *_: classifier)


@pytest.mark.parametrize(
    ("label", "groups", "accuracy"),
    [("truck", [], 1.0), ("car", [], 1.0), ("1", [], 1.0), ("cat", [], 0.0), ("automobile", ["--group", "a,b"], 0.0)],
)
def test_label_with_groups(made, tmp_path, trucks, label, groups, accuracy):
    save = tmp_path / "out"
    flags = ["--video", str(made / "video.avi"), "--classifier", "x", "--max-frames", "20", "--save", str(save)]
    assert main([*flags, "--label", label, *groups]) == 0
    summary = json.loads((save / "summary.json").read_text())
    assert summary["label"]["accuracy"] == accuracy
    assert summary["frames"] == 20
    assert {line["class"] for line in lines(save / "detections.jsonl")} == {"truck"}
    assert "classify" in summary["speed"]


def test_the_shipped_network_classifies_where_none_is_named(made, tmp_path):
    from models.zoo import get_pretrained

    save = tmp_path / "out"
    flags = ["--video", str(made / "video.avi"), "--max-frames", "20", "--save", str(save)]
    assert main([*flags, "--label", "car"]) == 0
    summary = json.loads((save / "summary.json").read_text())
    assert 0 <= summary["label"]["accuracy"] <= 1
    assert "classify" in summary["speed"]
    found = {line["class"] for line in lines(save / "detections.jsonl")}
    assert found
    assert found <= set(get_pretrained("nin_xnornet", "cifar10").classes)


def test_no_classifier_leaves_the_classes_open(made, tmp_path):
    save = tmp_path / "out"
    flags = ["--video", str(made / "video.avi"), "--max-frames", "20", "--save", str(save), "--classifier", "none"]
    assert main(flags) == 0
    assert {(line["class"], line["score"]) for line in lines(save / "detections.jsonl")} == {(None, None)}


@pytest.mark.parametrize("label", ["3", "boat"])
def test_unknown_label(made, trucks, capsys, label):
    message = f"--label {label!r} is no class of the classifier"
    fails(capsys, 2, message, "--video", made / "video.avi", "--classifier", "x", "--label", label)


def test_directory_of_frames(frames, tmp_path):
    assert main(["--video", str(frames), "--save", str(tmp_path / "out")]) == 0
    assert len(read_video(tmp_path / "out/video.avi")) == 12


def test_precomputed_masks(tmp_path):
    pairs, save = tmp_path / "pairs", tmp_path / "out"
    pairs.mkdir()
    for number in range(3):
        mask = np.zeros((100, 120), np.uint8)
        mask[30:60, 20 + number : 50 + number] = 255
        cv2.imwrite(str(pairs / f"{number}_a.png"), mask)
        cv2.imwrite(str(pairs / f"{number}_b.jpg"), np.full((100, 120, 3), 90, np.uint8))
    assert main(["--video", str(pairs), "--precomputed-masks", "--save", str(save)]) == 0
    boxes = [(line["frame"], *line["box"]) for line in lines(save / "detections.jsonl")]
    assert boxes == [(n + 1, 16 + n, 26, 54 + n, 64) for n in range(3)]


def test_odd_number_of_masks_and_frames(frames, capsys):
    (frames / "000.png").unlink()
    fails(capsys, 2, "holds 11 pictures; pairs", "--video", frames, "--precomputed-masks")


def test_mask_of_another_size_than_its_frame(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((10, 10), np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.zeros((10, 12, 3), np.uint8))
    fails(capsys, 2, "is 10x10 and its frame", "--video", tmp_path, "--precomputed-masks")


def test_resolution_that_changes_restarts_the_background(frames, tmp_path, capsys):
    for path in sorted(frames.iterdir())[6:]:
        cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (200, 160)))
    assert main(["--video", str(frames), "--save", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["restarts"] == 1
    assert "1 times the picture's size changed" in capsys.readouterr().out
    assert {image.shape for image in read_video(tmp_path / "out/video.avi")} == {(288, 352, 3)}


def test_frames_without_texture_count_as_a_still_camera(tmp_path, capsys):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((100, 120), 90, np.uint8))
    assert main(["--video", str(tmp_path)]) == 0
    assert "in 2 frames the camera's motion could not be found" in capsys.readouterr().out


def test_unreadable_picture_keeps_what_came_before(frames, tmp_path, capsys):
    (frames / "008.png").write_bytes(b"")
    fails(capsys, 2, "is not a readable picture", "--video", frames, "--save", tmp_path / "out")
    assert json.loads((tmp_path / "out/summary.json").read_text())["frames"] == 8
    assert len(read_video(tmp_path / "out/video.avi")) == 8


def test_video_that_breaks_off(made, tmp_path, capsys):
    data = (made / "video.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    fails(capsys, 1, "breaks off after frame", "--video", tmp_path / "cut.avi", "--save", tmp_path / "out")
    assert len(read_video(tmp_path / "out/video.avi")) > 10


class FakeCapture:
    """A camera that gives these pictures, then none."""

    def __init__(self, images):
        self.images = list(images)

    def isOpened(self):
        return True

    def get(self, _):
        return 0.0

    def read(self):
        image = self.images.pop(0) if self.images else None
        return image is not None, image


def test_camera_that_goes_away(monkeypatch, tmp_path, capsys):
    images = [image for image, _ in render(5)]
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda _: FakeCapture(images))
    fails(
        capsys, 1, "camera 0 gave no picture 30 times in a row after 5 frames", "--video", "0", "--save", tmp_path / "o"
    )
    assert len(read_video(tmp_path / "o/video.avi")) == 5


def test_empty_and_grey_frames_of_a_camera(monkeypatch, capsys):
    first, second = (image for image, _ in render(2))
    empty = np.empty((0, 0, 3), np.uint8)
    images = [first, empty, None, cv2.cvtColor(second, cv2.COLOR_BGR2GRAY)]
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda _: FakeCapture(images))
    assert main(["--video", "0", "--max-frames", "2"]) == 0
    output = capsys.readouterr().out
    assert "2 frames were empty" in output
    assert "boxes in 2 frames" in output


def test_camera_without_any_picture(monkeypatch, capsys):
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda _: FakeCapture([]))
    fails(capsys, 2, "camera 0 gave no frame that can be decoded", "--video", "0")


def test_interrupted_run_leaves_its_results(made, tmp_path, monkeypatch, capsys):
    def interrupt(self, frame, detections):
        if self.results.frames == 10:
            raise KeyboardInterrupt
        self.recorder.write(frame.number, frame.image, detections)
        return True

    monkeypatch.setattr(pipeline.Pipeline, "_write", interrupt)
    fails(capsys, 130, "interrupted", "--video", made / "video.avi", "--save", tmp_path / "out")
    assert len(read_video(tmp_path / "out/video.avi")) == 9
    assert (tmp_path / "out/summary.json").exists()


def test_killed_run_leaves_what_was_written(tmp_path):
    recorder = Recorder(tmp_path / "out", 20)
    noise = np.random.default_rng(0).integers(0, 256, (288, 352, 3), np.uint8)
    for number in range(1, 31):
        recorder.write(number, noise, [Detection(Box(10, 10, 50, 50))])
    # Never closed: what a killed process has handed to the system by now.
    assert len(lines(tmp_path / "out/detections.jsonl")) == 30
    assert len(read_video(tmp_path / "out/video.avi")) > 15


def test_window_of_a_headless_build(frames, monkeypatch, capsys):
    def no_window(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "QT5")
    monkeypatch.setattr(cv2, "imshow", no_window)
    fails(capsys, 2, "cannot show windows", "--video", frames, "--show")


def test_a_headless_opencv_names_the_package_with_windows(tmp_path, monkeypatch, capsys):
    """Before the video is opened: it is not there."""
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    message = "opencv-python-headless cannot show windows; replace it with opencv-python ("
    fails(capsys, 2, message, "--video", tmp_path / "none.avi", "--show")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "nowhere.mp4"], "there is no video 'nowhere.mp4'"),
        (["--video", "notes.avi"], "OpenCV cannot open 'notes.avi'"),
        (["--video", "."], "holds no pictures"),
        (["--video", "nowhere", "--precomputed-masks"], "there is no directory 'nowhere'"),
        (["--video", "x", "--dataset-classes", "cifar10"], "needs a --classifier"),
        (["--video", "x", "--classifier", "none", "--label", "car"], "--label needs a classifier"),
        (["--video", "x", "--pictures", "3"], "--pictures needs --save"),
        (["--video", "x", "--iou", "2"], "--iou is 2.0"),
        (["--video", "x", "--ground-truth", "gt.txt"], "there is no file 'gt.txt'"),
        (["--detections", "x"], "--detections needs --ground-truth"),
        (["--detections", "x", "--ground-truth", "y", "--show"], "need a --video"),
    ],
)
def test_input_that_cannot_be_used(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.avi").write_text("no video")
    fails(capsys, 2, message, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --video --detections is required"),
        (["--video", "x", "--threads", "0"], "'0' is not a whole number of at least 1"),
        (["--video", "x", "--dataset-classes", "imagenet"], "invalid choice: 'imagenet'"),
    ],
)
def test_flags_that_cannot_be_parsed(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
