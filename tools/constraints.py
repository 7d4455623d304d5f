"""Print the versions that are installed in the environment of the Python that runs this, as constraints for pip.

    python tools/constraints.py > constraints.txt

`make constraints` does so in an environment that it makes for this. A version that does not exist for the oldest
Python that setup.cfg allows binds those Pythons alone that it is for; the others take what pip finds.
"""

import argparse
import configparser
import sys
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
INSTALLERS = {"pip", "setuptools", "wheel"}
HEADER = """\
# Versions that work together: what `pip install '.[test,dev,docs]'` took with Python {python}. `make`
# installs these. `make constraints` writes this file anew; `make CONSTRAINTS= test` takes the newest versions instead.
"""


def project() -> tuple[str, SpecifierSet]:
    """The distribution's name, and the Pythons that it allows."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return setup["metadata"]["name"], SpecifierSet(setup["options"]["python_requires"])


def marker(wanted: str | None, minors: list[int]) -> str:
    """What to append to a version for Pythons ``wanted``, where these are not all 3.x of ``minors``."""
    allowed = [minor for minor in minors if SpecifierSet(wanted or "").contains(f"3.{minor}.99")]
    return f'; python_version >= "3.{allowed[0]}"' if allowed[:1] != minors[:1] else ""


def constraints(distributions: list[metadata.Distribution], name: str, pythons: SpecifierSet) -> list[str]:
    """A line a distribution, sorted; those of ``name`` and of installers left out, and builds (``+cpu``) not named."""
    minors = [minor for minor in range(sys.version_info.minor + 1) if pythons.contains(f"3.{minor}.99")]
    lines = {}
    for distribution in distributions:
        key = canonicalize_name(distribution.metadata["Name"])
        if key not in {canonicalize_name(name), *INSTALLERS}:
            pin = f"{key}=={Version(distribution.version).public}"
            lines[key] = pin + marker(distribution.metadata.get("Requires-Python"), minors)
    return [lines[key] for key in sorted(lines)]


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(HEADER.format(python=".".join(map(str, sys.version_info[:2]))), end="")
    print(*constraints(list(metadata.distributions()), *project()), sep="\n")


if __name__ == "__main__":
    main()
