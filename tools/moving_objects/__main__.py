"""``python tools/moving_objects``, ``python -m tools.moving_objects``; in a wheel the same of ``xnorkit``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # started by its path, Python looks in this folder only

from tools.command_line import exit_code


def main() -> int:
    """Run the command line; the exit code."""
    from tools.moving_objects import cli  # here: OpenCV may not be installed

    return cli.main()


sys.exit(exit_code("moving_objects", main))
