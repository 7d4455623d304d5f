"""Mutants of a module: each differs from it in one operator, number, keyword or decorator, as cosmic-ray makes them."""

import ast
import dataclasses
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

# These take a name for an argument, or change nothing.
_LEFT_OUT = ("core/VariableReplacer", "core/VariableInserter", "core/NoOp")
# No operator has anything to do with these leaves of a syntax tree, and most leaves are of them.
_PLAIN = ("name", "string", "newline", "fstring_string", "fstring_start", "fstring_end", "endmarker")

Place = tuple[int, int]  # line, from 1, and column, from 0


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        module: its path in the repository.
        line: of the change.
        before, after: that line in the module, and the first that differs in the mutant, without indentation.
        source: of the whole mutant.
    """

    module: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before}  ->  {self.after}"


def sample(root: Path, modules: Iterable[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants, each at another place; a larger count has those of a smaller one first.

    The order is random, and a place keeps its rank while its own line is as it was: what changes elsewhere in a module
    changes nothing in the sample but that.
    """
    ranked = sorted((rng.random(), *found) for module in modules for rng, *found in _drawn(root, module, seed))
    return [_mutant(root, module, place, way) for _, module, place, way in ranked[:count]]


def _drawn(root: Path, module: str, seed: int) -> Iterator[tuple[random.Random, str, Place, tuple[str, int]]]:
    """Each place of a module with one of its ways, and the random numbers that chose it."""
    lines = (root / module).read_text(encoding="utf-8").splitlines()
    alike: Counter[str] = Counter()
    for (line, column), ways in _places(root / module).items():
        what = f"{seed} {module} {column} {lines[line - 1]}"
        rng = random.Random(f"{what} {alike[what]}")
        alike[what] += 1
        yield rng, module, (line, column), rng.choice(ways)


def _places(path: Path) -> dict[Place, list[tuple[str, int]]]:
    """Where a module can be changed, and in which ways: a name of an operator, and how many places it has before."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = path.read_text(encoding="utf-8")
    nodes = [node for node in ast_nodes(get_ast(source)) if node.type not in _PLAIN]
    annotations = list(_annotations(source))
    places: dict[Place, list[tuple[str, int]]] = defaultdict(list)
    for name in sorted(set(operator_names()) - {*_LEFT_OUT}):
        operator = get_operator(name)()
        found = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, place in enumerate(found):
            if not any(start <= place < end for start, end in annotations):
                places[place].append((name, occurrence))
    return dict(sorted(places.items()))


def _annotations(source: str) -> Iterator[tuple[Place, Place]]:
    """From where to where types are written, in which a ``|`` is no operation."""
    for node in ast.walk(ast.parse(source)):
        for field in ("annotation", "returns"):
            written = getattr(node, field, None)
            if written is not None:
                yield (written.lineno, written.col_offset), (written.end_lineno, written.end_col_offset)


def _mutant(root: Path, module: str, place: Place, way: tuple[str, int]) -> Mutant:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    name, occurrence = way
    source = (root / module).read_text(encoding="utf-8")
    changed = mutate_code(source, get_operator(name)(), occurrence)
    lines = source.splitlines(), changed.splitlines()
    differs = next(i for i, (a, b) in enumerate(zip(*lines, strict=False)) if a != b)
    return Mutant(module, place[0], lines[0][place[0] - 1].strip(), lines[1][differs].strip(), changed)
