"""Opens mutants, each in one of the ways that a file is opened in."""

import collections
import contextlib
import io
import itertools
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import training
from tools import convert
from tools.evaluating.artefacts import open_artefact
from training import engine

from .mutations import mutant


def load(file: Path, out: Path) -> None:
    training.load_model(file)


def artefact(file: Path, out: Path) -> None:
    artefact = open_artefact(file)
    artefact.run(torch.zeros(1, *artefact.input_size))


def evaluate(file: Path, out: Path) -> None:
    training.evaluate_checkpoint({"evaluate": str(file), "gpu": "cpu"})


def pretrain(file: Path, out: Path) -> None:
    flags = {"arch": "tiny_xnornet", "dataset": "digits", "pretrained": str(file), "gpu": "cpu", "log_path": str(out)}
    engine.train_epoch(training.setup(training.config_from_flags({**flags, "batch_size": 700})))


def resume(file: Path, out: Path) -> None:
    session = training.setup(
        training.config_from_flags({"resume": str(file), "gpu": "cpu", "log_path": str(out), "workers": 0})
    )
    few = itertools.islice(session.data.train.__class__.__iter__(session.data.train), 8)
    session.data.train.__class__ = type("Few", (session.data.train.__class__,), {"__iter__": lambda _: few})
    engine.train_epoch(session)
    session.checkpoint(None)


def pack(file: Path, out: Path) -> None:
    convert.convert(file, out.with_suffix(".pt"))


# How a file of a kind, the last word of a seed's name, is opened; what needs most of it twice.
WAYS = {
    "partial": (resume, resume, load, evaluate),
    "last": (resume, resume, pretrain, pack),
    "best": (load, artefact, evaluate, pretrain, pack),
    "packed": (load, artefact, evaluate),
    "weights": (pretrain,),
}


def verdict(way, file: Path, out: Path) -> str:
    """ "accepted" or "refused", or what has escaped."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            way(file, out)
    except (ValueError, OSError, training.RunStopped) as error:
        text = str(error)
        return "refused" if text and "\n" not in text else f"ESCAPED: no sentence: {text!r}"
    except Exception as error:
        return f"ESCAPED from {way.__name__}: {type(error).__name__}: {error}"
    return "accepted"


def fuzz(
    seeds: dict[str, Any], directory: Path, numbers: Iterable[int], seed: int = 0
) -> tuple[dict[str, int], dict[int, str]]:
    """(how often each verdict, what has escaped from which mutant)."""
    counts: dict[str, int] = collections.Counter()
    failures: dict[int, str] = {}
    for number in tqdm(numbers, unit="mutant", disable=None):
        name, _, contents = mutant(seeds, number, seed)
        file = directory / "mutant.pt"
        torch.save(contents, file)
        way = random.Random(f"way {seed} {number}").choice(WAYS[name.split()[-1]])
        found = verdict(way, file, directory / f"out{number}")
        counts[found.partition(" ")[0].strip(":")] += 1
        if found.startswith("ESCAPED"):
            failures[number] = found
    return counts, failures
