"""Valid files: checkpoints of every kind, a packed file and plain weights, of a network that trains in no time."""

from pathlib import Path
from typing import Any

import torch
from tiny_runs import train

from tools import convert
from training import engine

RUNS = {
    "adam": {"optimizer": "adam", "ema": 0.9, "overrides": {"2": "bwn"}},
    "sgd": {"optimizer": "sgd", "amp": "fp16", "scheme": "react", "stage1_epochs": 1},
    "float": {"scheme": "none", "optimizer": "rmsprop", "lr_schedule": "step", "milestones": (1,)},
}


def write_seeds(directory: Path) -> dict[str, Any]:
    """Contents by name; the run's files stay in ``directory``."""
    seeds = {}
    for name, flags in RUNS.items():
        save_partial, partial = engine.save_partial, directory / f"{name}.pt"

        def save_and_keep(session, *args, save_partial=save_partial, partial=partial):
            save_partial(session, *args)
            session.last.replace(partial)

        engine.save_partial = save_and_keep
        try:
            train(directory / name, epochs=3, batch_size=300, checkpoint_every=2, **flags)
        finally:
            engine.save_partial = save_partial
        files = {"partial": partial, **{kind: directory / name / f"{kind}.pt" for kind in ("last", "best")}}
        seeds |= {f"{name} {kind}": torch.load(file, weights_only=True) for kind, file in files.items()}
        seeds[f"{name} last"]["epoch"] = 1  # there is something left to train
    convert.convert(directory / "adam", directory / "packed.pt")
    seeds["packed"] = torch.load(directory / "packed.pt", weights_only=True)
    seeds["weights"] = seeds["float best"]["model"]
    return seeds
