"""Check, or with --fix repair, style and formatting of the whole project with ruff.

    python tools/lint.py [--fix]

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
    fix = parser.parse_args().fix
    ruff = [sys.executable, "-m", "ruff"]
    options = ruff_options(ROOT / "setup.cfg")
    check = [*ruff, "check", *(["--fix"] if fix else []), *options, "."]
    formatted = [*ruff, "format", *([] if fix else ["--check"]), *options, "."]
    return max(subprocess.run(command, cwd=ROOT).returncode for command in (check, formatted))


if __name__ == "__main__":
    sys.exit(main())
