"""Draw what detection does to a made video: frames with what is known and what is found, and below them the foreground.

    python -m tools.moving_objects.picture                  to READMEs/images/moving_objects.jpg
    python -m tools.moving_objects.picture --out FILE.jpg

White: the box that is known; red: the one that is found. Exit codes: 0 done, 2 something that cannot be used.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.command_line import exit_code, tool_parser

OUT = Path(__file__).resolve().parents[2] / "READMEs" / "images" / "moving_objects.jpg"
FRAMES = (40, 55, 70, 85)
QUALITY = 70  # of JPEG: 40 kB in all


def draw() -> NDArray[np.uint8]:
    """(height, width, 3) BGR: a column a frame."""
    import cv2

    from .detector import Detector
    from .output import WHITE, Detection
    from .output import draw as draw_boxes
    from .synthetic import render

    detect, columns = Detector(), []
    for number, (image, known) in enumerate(render(FRAMES[-1]), start=1):
        found = [Detection(box) for box in detect(image)]
        if number in FRAMES:
            frame = draw_boxes(image, found)
            for _, (x1, y1, x2, y2) in known:
                cv2.rectangle(frame, (x1, y1), (x2 - 1, y2 - 1), WHITE, 1)
            columns.append(np.vstack([frame, cv2.cvtColor(detect.mask, cv2.COLOR_GRAY2BGR)]))
    return np.hstack(columns)


def save(path: Path) -> None:
    """Draw into a file. Raises ValueError or OSError where that cannot be."""
    if path.suffix != ".jpg":
        raise ValueError(f"{str(path)!r} is not a .jpg file; name one")
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = cv2.resize(draw(), None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    if not cv2.imwrite(str(path), drawn, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
        raise OSError(f"{str(path)!r} cannot be written")
    print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="default: READMEs/images/moving_objects.jpg")
    flags = parser.parse_args(argv)
    return exit_code("picture", lambda: save(flags.out))


if __name__ == "__main__":
    sys.exit(main())
