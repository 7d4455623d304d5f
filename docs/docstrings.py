"""An extension of griffe, which reads the docstrings for the reference: their reStructuredText becomes Markdown.

Roles (:func:`...`) become links where a page of docs/pages/api has what they name, else code; where `::` announces a
block, a colon stays.
"""

import re
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).parent / "pages" / "api"
OBJECT = re.compile(r"^::: (\S+)$", re.MULTILINE)
ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([\w.]+)`")
ANNOUNCED = re.compile(r"(?<=\S)::$", re.MULTILINE)


def documented() -> dict[str, str]:
    """Every object that the reference shows: its name without a package -> its whole name."""
    names = [name for page in sorted(REFERENCE.glob("*.md")) for name in OBJECT.findall(page.read_text("utf-8"))]
    return {name.rpartition(".")[2]: name for name in names}


class Markdown(griffe.Extension):
    """For the docstring of every object of a package, when all of them are loaded."""

    def __init__(self) -> None:
        self._documented = documented()

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ANNOUNCED.sub(":", ROLE.sub(self._link, obj.docstring.value))

    def _link(self, role: re.Match[str]) -> str:
        shown = self._documented.get(role[1].rpartition(".")[2])
        return f"[`{role[1]}`][{shown}]" if shown else f"`{role[1]}`"
