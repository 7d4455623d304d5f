"""``python tools/moving_objects`` and ``python -m tools.moving_objects``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path, Python looks in this folder only

try:
    from tools.moving_objects.cli import main
except ModuleNotFoundError as error:
    if error.name != "cv2":
        raise
    print(f"moving_objects: error: {error}", file=sys.stderr)
    sys.exit(2)

sys.exit(main())
