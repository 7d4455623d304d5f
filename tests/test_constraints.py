"""constraints.txt and the lowest versions of setup.cfg, which `make test`, `make test-versions` install."""

import configparser
import re
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.constraints import constraints

ROOT = Path(__file__).parent.parent


def requirements() -> list[Requirement]:
    """Of the package and of its extras, as setup.cfg writes them, but for extras that name extras."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = [line for text in lists for line in text.split("\n") if line]
    return [Requirement(line) for line in lines if not line.startswith(f"{setup['metadata']['name']}[")]


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_has_one_constraint_that_satisfies_it(requirement):
    pins = [Requirement(line) for line in constraint_lines()]
    found = [pin for pin in pins if canonicalize_name(pin.name) == canonicalize_name(requirement.name)]
    assert len(found) == 1
    (pin,) = found[0].specifier
    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version)


@pytest.mark.parametrize("line", constraint_lines())
def test_constraints_name_no_build_and_no_place(line):
    assert re.fullmatch(r'[a-z0-9-]+==[0-9a-z.]+(; python_version >= "3\.\d+")?', line)


@pytest.mark.parametrize("requirement", requirements(), ids=lambda r: r.name)
def test_every_requirement_names_its_lowest_version(requirement):
    """From which `make test-versions` makes the lowest environment."""
    assert [specifier.operator for specifier in requirement.specifier] == [">="]


def distribution(name: str, version: str, requires_python: str | None = None) -> SimpleNamespace:
    metadata = Message()
    metadata["Name"] = name
    if requires_python:
        metadata["Requires-Python"] = requires_python
    return SimpleNamespace(metadata=metadata, version=version)


def test_constraints_of_an_environment():
    installed = [
        distribution("torch", "2.14.1+cpu", ">=3.10"),
        distribution("Some_Thing", "1.0"),
        distribution("numpy", "2.4.6", ">=3.11"),
        distribution("odd", "3", "!=3.10.*,>=3.8"),
        distribution("pip", "26.0"),
        distribution("xnorkit", "0.1.0"),
    ]
    assert constraints(installed, "xnorkit", SpecifierSet(">=3.10")) == [
        'numpy==2.4.6; python_version >= "3.11"',
        'odd==3; python_version >= "3.11"',
        "some-thing==1.0",
        "torch==2.14.1",
    ]
