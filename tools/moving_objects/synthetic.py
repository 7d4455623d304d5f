"""A video with known boxes: a textured background under a camera that pans, turns and shakes, and moving objects.

    python -m tools.moving_objects.synthetic DIR [--frames 120]

writes DIR/video.avi and DIR/ground_truth.jsonl, one line an object and frame.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.command_line import imports_of

with imports_of(__name__, "synthetic"):
    import cv2

    from .regions import Box

HEIGHT, WIDTH = 288, 352
MARGIN = 120  # pixels of background around the picture, for the camera to move in
SCENE = (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN)
FPS = 20.0
NOISE = 2.0  # grey levels, standard deviation


@dataclasses.dataclass(frozen=True)
class MovingObject:
    """An ellipse with a texture of its own.

    Attributes:
        name: its class.
        colour: BGR.
        size: (width, height) in pixels.
        start, velocity: centre in the first frame, and its motion a frame, x and y in pixels of the background;
            what leaves the background comes in again on the other side.
    """

    name: str
    colour: tuple[int, int, int]
    size: tuple[int, int]
    start: tuple[float, float]
    velocity: tuple[float, float]


OBJECTS = (
    MovingObject("car", (10, 10, 90), (56, 36), (150.0, 175.0), (4.2, 0.0)),
    MovingObject("person", (250, 250, 200), (36, 60), (430.0, 350.0), (-3.4, 0.0)),
    MovingObject("truck", (110, 30, 10), (60, 40), (560.0, 262.0), (-4.5, 0.0)),
)


@dataclasses.dataclass(frozen=True)
class Camera:
    """How the camera moves; all zero: a still one.

    Attributes:
        pan: pixels it swings to either side.
        turn: degrees it turns to either side.
        shake: pixels of random jitter a frame, standard deviation.
    """

    pan: float = 60.0
    turn: float = 2.0
    shake: float = 1.0


def render(
    frames: int, objects: tuple[MovingObject, ...] = OBJECTS, camera: Camera | None = None, seed: int = 0
) -> Iterator[tuple[NDArray[np.uint8], list[tuple[str, Box]]]]:
    """Yield pictures (288, 352, 3) BGR with the class and box of every object in sight, cut to the picture."""
    rng = np.random.default_rng(seed)
    background = texture(SCENE[1], SCENE[0], rng)
    skins = [skin(thing, rng) for thing in objects]
    for frame in range(frames):
        view = camera_view(frame, camera or Camera(), rng)
        image = cv2.warpAffine(background, view, (WIDTH, HEIGHT))
        boxes = []
        for thing, picture in zip(objects, skins, strict=True):
            box = visible_box(draw_object(image, thing, picture, frame, view))
            if box is not None:
                boxes.append((thing.name, box))
        noise = NOISE * rng.standard_normal(image.shape, np.float32)
        yield np.clip(image + noise, 0, 255).astype(np.uint8), boxes


def texture(height: int, width: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(height, width, 3): patches of grey from coarse to fine with a little colour, as grass or a wall has them."""
    picture = np.full((height, width, 3), 128.0)
    for cell, strength in ((64, 25), (16, 25), (5, 20)):
        grey = rng.uniform(-strength, strength, (height // cell + 2, width // cell + 2, 1))
        colour = rng.uniform(-strength / 4, strength / 4, (*grey.shape[:2], 3))
        picture += cv2.resize(grey + colour, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def skin(thing: MovingObject, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The object's picture (height, width, 3): its colour with texture."""
    width, height = thing.size
    return cv2.addWeighted(
        texture(height, width, rng), 0.4, np.full((height, width, 3), thing.colour, np.uint8), 0.6, 0
    )


def camera_view(frame: int, camera: Camera, rng: np.random.Generator) -> NDArray[np.float64]:
    """(2, 3): from pixels of the background to pixels of the picture."""
    angle = camera.turn * np.sin(frame / 25)
    view = cv2.getRotationMatrix2D((WIDTH / 2 + MARGIN, HEIGHT / 2 + MARGIN), angle, 1.0)
    swing = camera.pan * np.array([np.sin(frame / 30), 0.4 * np.sin(frame / 20)])
    view[:, 2] -= MARGIN + swing + rng.normal(0, camera.shake, 2)
    return view


def draw_object(
    image: NDArray[np.uint8],
    thing: MovingObject,
    picture: NDArray[np.uint8],
    frame: int,
    view: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Draw an object where the camera sees it, between pixels; its outline (points, 2) in pixels of ``image``."""
    width, height = thing.size
    centre = (np.array(thing.start) + frame * np.array(thing.velocity)) % SCENE
    corner = centre - np.array([width - 1, height - 1]) / 2
    turns = np.linspace(0, 2 * np.pi, 60)
    outline = centre + np.column_stack([np.cos(turns) * width, np.sin(turns) * height]) / 2
    seen = outline @ view[:, :2].T + view[:, 2]
    to_image = np.column_stack([view[:, :2], view[:, :2] @ corner + view[:, 2]])
    drawn = cv2.warpAffine(picture, to_image, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round(seen * 16).astype(np.int32)], 255, shift=4)
    cv2.copyTo(drawn, mask, image)
    return seen


def visible_box(outline: NDArray[np.float64]) -> Box | None:
    """The box around an outline, cut to the picture; None where less than half of it is in the picture."""
    low, high = np.floor(outline.min(axis=0)), np.ceil(outline.max(axis=0)) + 1
    cut_low, cut_high = np.maximum(low, 0), np.minimum(high, (WIDTH, HEIGHT))
    inside = np.prod(np.maximum(cut_high - cut_low, 0)) / np.prod(high - low)
    return Box(*map(int, (*cut_low, *cut_high))) if inside >= 0.5 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--frames", type=int, default=120)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(
        str(arguments.directory / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (WIDTH, HEIGHT)
    )
    with (arguments.directory / "ground_truth.jsonl").open("w") as truth:
        for number, (image, boxes) in enumerate(render(arguments.frames), start=1):
            video.write(image)
            truth.writelines(json.dumps({"frame": number, "class": name, "box": box}) + "\n" for name, box in boxes)
    video.release()


if __name__ == "__main__":
    main()
