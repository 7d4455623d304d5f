"""What one run of the benchmark found, as a JSON file."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .measure import Row

KINDS = ("shapes", "networks", "schemes", "kernels", "channels", "kernel", "training", "cuda")


@dataclasses.dataclass
class Result:
    """Rows by group: kernels have one an instruction set, the others one. ``missing``: groups that this machine
    cannot run, and why. ``memory``: of networks.
    """

    kind: str
    environment: dict[str, Any]
    rounds: int
    groups: dict[str, list[Row]] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    memory: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def write(self, path: Path) -> None:
        """As JSON with a line for each row, so that a change of one figure is a change of one line."""
        fields = dataclasses.asdict(self)
        texts = {name: json.dumps(value) for name, value in fields.items()}
        texts["groups"] = _braced("{}", (f"{json.dumps(g)}: {_rows(rows)}" for g, rows in fields["groups"].items()))
        texts["memory"] = _rows(fields["memory"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_braced("{}", (f"{json.dumps(name)}: {text}" for name, text in texts.items())) + "\n")


def _rows(rows: Iterable[dict]) -> str:
    return _braced("[]", map(json.dumps, rows))


def _braced(braces: str, parts: Iterable[str]) -> str:
    """``parts`` between two braces, each on a line of its own."""
    text = ",\n".join(parts)
    return f"{braces[0]}\n{text}\n{braces[1]}" if text else braces


def read_result(path: Path) -> Result:
    """Raises ValueError for a file that this tool did not write."""
    try:
        fields = json.loads(path.read_text())
        groups = {name: [Row(**row) for row in rows] for name, rows in fields["groups"].items()}
        result = Result(**{**fields, "groups": groups})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} is not a result of tools/benchmark.py --json: {error!r}") from None
    if result.kind not in KINDS:
        raise ValueError(f"{str(path)!r} is of kind {result.kind!r}; valid: {', '.join(KINDS)}")
    return result
