"""Check, or with --fix repair, style and formatting of the project, or of some paths, with ruff.

    python tools/lint.py [--fix] [PATH ...]

The rules stand in setup.cfg, section [tool:ruff].
"""

import argparse
import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def ruff_options(setup_cfg: Path) -> list[str]:
    """The section's ``key = TOML value`` lines as ruff's --config arguments."""
    parser = configparser.ConfigParser()
    parser.read(setup_cfg)
    return [part for key, value in parser["tool:ruff"].items() for part in ("--config", f"{key} = {value}")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="repair what ruff can repair")
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT], metavar="PATH", help="default: all")
    args = parser.parse_args()
    ruff, options = [sys.executable, "-m", "ruff"], ruff_options(ROOT / "setup.cfg")
    check = [*ruff, "check", *(["--fix"] if args.fix else []), *options, *args.paths]
    formatted = [*ruff, "format", *([] if args.fix else ["--check"]), *options, *args.paths]
    return max(subprocess.run(command).returncode for command in (check, formatted))


if __name__ == "__main__":
    sys.exit(main())
