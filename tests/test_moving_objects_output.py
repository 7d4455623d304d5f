"""What is drawn into the pictures, and what is said where there is no OpenCV to draw with."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2

from tools.moving_objects import picture
from tools.moving_objects.classify import Label
from tools.moving_objects.output import Detection, draw
from tools.moving_objects.regions import Box

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("box", [(150, 40, 190, 80), (0, 40, 30, 80), (150, 0, 200, 100)], ids=["right", "left", "all"])
def test_the_class_is_written_whole_within_the_picture(box):
    """As many white pixels as in a picture that has room."""

    def white(width, height, box):
        drawn = draw(np.zeros((height, width, 3), np.uint8), [Detection(Box(*box), Label("automobile", 0.93))])
        return int((drawn.min(axis=2) > 128).sum())

    assert white(200, 100, box) == white(800, 600, (300, 300, 340, 340)) > 100


@pytest.mark.parametrize(
    "program",
    [
        ["tools/moving_objects", "--video", "street.mp4"],
        ["-m", "tools.moving_objects.synthetic", "made"],
        ["-m", "tools.moving_objects.classify_speed", "net.pt"],
        ["-m", "tools.moving_objects.picture", "--out", "boxes.jpg"],
    ],
    ids=lambda program: program[1].rpartition(".")[2],
)
def test_without_opencv_one_line_says_what_to_install(tmp_path, program):
    (tmp_path / "cv2.py").write_text("raise ModuleNotFoundError('no such module', name='cv2')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert "this needs opencv-python-headless, which is not installed: pip install 'xnorkit[video]'" in found.stderr
    assert found.stderr.count("\n") == 1


def test_the_picture_of_the_guide_is_drawn(tmp_path, capsys):
    assert picture.main(["--out", str(tmp_path / "new" / "boxes.jpg")]) == 0
    drawn = cv2.imread(str(tmp_path / "new" / "boxes.jpg"))
    assert drawn.shape == (432, 264 * len(picture.FRAMES), 3)
    red = (drawn[..., 2] > 200) & (drawn[..., 1] < 80)
    assert red[:216].sum() > 500
    assert not red[216:].any()
    assert picture.main(["--out", str(tmp_path / "boxes.gif")]) == 2
    assert "is not a .jpg file" in capsys.readouterr().err
