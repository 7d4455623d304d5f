"""Flags beside a checkpoint: which of them a run that goes on may change."""

import dataclasses
from typing import Any

from ..checkpoint import changed, find_checkpoint, read_last
from ..processes.distributed import on_first
from ..processes.run_dir import continued, is_restart
from .flags import changed_by_resume
from .train_config import TrainConfig, flag_name, whole_epochs

OWN_FLAGS, FREE_FLAGS = (changed_by_resume(TrainConfig, how) for how in ("own", "free"))


def check_same_classes(saved: list[str], found: list[str], path: str) -> None:
    """Raises ValueError where a checkpoint was trained on other classes than the data has."""
    if saved != found:
        odd = sorted(set(saved) ^ set(found)) or found
        raise ValueError(
            f"the {len(saved)} classes of {path!r} are not the {len(found)} of the data "
            f"({', '.join(odd[:5])} differ); give its own --dataset and --data-dir"
        )


def refuse_contradictions(path: str, saved: dict[str, Any], flags: dict[str, Any]) -> None:
    """Raises ValueError for a flag that says otherwise than the configuration saved in ``path``."""
    unset = {field.name: field.default for field in dataclasses.fields(TrainConfig)}  # of flags that came later
    for name, value in flags.items():
        trained = saved.get(name, unset[name])
        if trained != value:
            implied = name == "lr_schedule" and "milestones" in flags
            said = f"{'--milestones, which imply' if implied else flag_name(name)} {value}"
            raise ValueError(
                f"{said} contradicts {path!r}, which was trained with {trained}; leave it out, or start a new run from "
                "these weights with --pretrained"
            )


def config_from_flags(flags: dict[str, Any]) -> TrainConfig:
    """The configuration of the flags given; with ``resume``, on top of the checkpoint's own.

    Raises ValueError for flags that contradict the checkpoint, or leave nothing to train.
    """
    restarted = is_restart()
    flags = continued(flags)
    if "resume" not in flags:
        return TrainConfig.create(**flags)
    path, checkpoint = on_first(lambda: (str(find_checkpoint(flags["resume"])), read_last(flags["resume"])))
    saved = checkpoint["config"]
    free = OWN_FLAGS + FREE_FLAGS
    if not _takes_more_epochs(saved):
        free = tuple(name for name in free if name != "epochs")
    given = whole_epochs(flags, flags.get("epochs", saved["epochs"]))
    refuse_contradictions(path, saved, {name: value for name, value in given.items() if name not in free})
    config = config_of(path, saved, flags)
    if checkpoint["epoch"] >= config.epochs and not restarted:  # by torchrun, which may be after the last epoch
        raise ValueError(f"{path!r} has all {config.epochs} epochs, and nothing is left to train; {_more(saved)}")
    return config


def config_of(path: str, saved: dict[str, Any], flags: dict[str, Any]) -> TrainConfig:
    """The configuration saved in ``path``, under the ``flags`` that are given. Raises ValueError for either of them."""
    try:
        return TrainConfig.create(**{**saved, **flags})
    except ValueError as error:
        try:
            TrainConfig.create(**saved)
        except ValueError as wrong:
            raise changed(path, f"['config'] cannot be used ({wrong})") from error
        raise


def _takes_more_epochs(saved: dict[str, Any]) -> bool:
    """Whether the learning rate of a run with this configuration is not laid out over its epochs."""
    return saved["lr_schedule"] == "step"


def _more(saved: dict[str, Any]) -> str:
    if _takes_more_epochs(saved):
        return "ask for more of them with --epochs"
    return (
        f"its {saved['lr_schedule']} learning rate is laid out over them: "
        "start a new run from these weights with --pretrained"
    )
