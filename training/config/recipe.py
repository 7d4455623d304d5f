"""Recipes: flags that belong together, a small file each in ``training/recipes/``.

A file holds flags of trainer_exp.py as its command line takes them; ``#`` starts a comment.
"""

import shlex
from pathlib import Path

from quantize.words import did_you_mean

FOLDER = Path(__file__).parent.parent / "recipes"


def list_recipes() -> list[str]:
    """The names that ``--recipe`` takes, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def read_recipe(name: str) -> list[str]:
    """The command-line arguments of a recipe. Raises ValueError for an unknown name, with close ones."""
    names = list_recipes()
    if name not in names:
        raise ValueError(f"unknown recipe {name!r}: {did_you_mean(name, names)}")
    return shlex.split((FOLDER / f"{name}.txt").read_text(encoding="utf-8"), comments=True)
