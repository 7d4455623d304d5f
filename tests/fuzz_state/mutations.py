"""Structural damage: a place in nested dicts and lists, and something else that stands there."""

import copy
import math
import random
from collections.abc import Callable
from typing import Any

import torch

VALUES = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63 - 1, 2**70, -(2**63), 0.5, -0.5, 1e38, math.inf, math.nan),
    *("", "x", "0", "xnor", "a\nb", "nin", "../x", b"", b"x", [], {}, (), [None], {"x": 1}, {0: 0}, [[]], (1, 2, 3)),
    *(torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(2, 3), torch.tensor([1 + 2j]), torch.ones(3).bool()),
    *(torch.zeros(5056, dtype=torch.uint8), torch.tensor(7), torch.full((3,), math.nan), torch.eye(3).to_sparse()),
]


def _descend(tree: Any, rng: random.Random) -> list[tuple[Any, Any]]:
    """(container, key) pairs from the root to a random place, shallow ones as often as deep ones."""
    path: list[tuple[Any, Any]] = []
    while isinstance(tree, (dict, list, tuple)) and len(tree) and (not path or rng.random() < 0.8):
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        path.append((tree, key))
        tree = tree[key]
    return path


def _put(path: list[tuple[Any, Any]], value: Any) -> None:
    """Set the end of ``path``; tuples on the way become other tuples."""
    container, key = path[-1]
    if isinstance(container, tuple):
        _put(path[:-1], (*container[:key], value, *container[key + 1 :]))
    else:
        container[key] = value


def replaced(path, root, rng: random.Random) -> None:
    _put(path, copy.deepcopy(rng.choice(VALUES)))


def exchanged(path, root, rng: random.Random) -> None:
    other, key = _descend(root, rng)[-1]
    _put(path, copy.deepcopy(other[key]))


def removed(path, root, rng: random.Random) -> None:
    container, key = path[-1]
    if isinstance(container, tuple):
        _put(path[:-1], container[:key] + container[key + 1 :])
    else:
        del container[key]


def renamed(path, root, rng: random.Random) -> None:
    container, key = path[-1]
    if isinstance(container, dict):
        container[rng.choice([f"{key}x", "x", "", 0, None, 1.5])] = container.pop(key)
    else:
        _put(path, [container[key]])


def added(path, root, rng: random.Random) -> None:
    container, key = path[-1]
    if isinstance(container, dict):
        container[rng.choice(["x", 7, "evaluate", "resume"])] = copy.deepcopy(rng.choice(VALUES))
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(rng.choice([container[key], rng.choice(VALUES)])))
    else:
        _put(path[:-1], (*container, container[key]))


def shifted(path, root, rng: random.Random) -> None:
    container, key = path[-1]
    value = container[key]
    if isinstance(value, torch.Tensor):
        value = rng.choice([value[None], value.flatten()[:0], value.double(), value.to(torch.int32), value.bool()])
    elif isinstance(value, (int, float)):
        value = rng.choice([value + rng.randint(-3, 3), -value, float(value), bool(value), str(value), value * 1000])
    elif isinstance(value, str):
        value = rng.choice([value[:-1], value + "x", value.upper(), [value]])
    else:
        value = rng.choice([str(value), [value], None])
    _put(path, value)


CHANGES: tuple[Callable, ...] = (replaced, exchanged, removed, renamed, added, shifted)


def mutant(seeds: dict[str, Any], number: int, seed: int = 0) -> tuple[str, str, Any]:
    """(name of the seed, what was done, changed contents); the same for the same numbers everywhere."""
    rng = random.Random(f"{seed} {number}")
    name = rng.choice(sorted(seeds))
    contents, done = copy.deepcopy(seeds[name]), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = _descend(contents, rng)
        change = rng.choice(CHANGES)
        if not (path and len(path) < 2 and isinstance(path[0][0], tuple)):
            change(path, contents, rng)
        done.append(f"{change.__name__} {'.'.join(str(key) for _, key in path)}")
    return name, "; ".join(done), contents
