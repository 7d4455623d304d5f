"""A row of tools/reproducing/targets.py as a run: its name, its flags, and whether a log is one of it."""

import dataclasses
import functools
import shlex
from collections.abc import Mapping
from typing import Any

from tools.reproducing.targets import IMAGES, IMAGES_FLAGS, IMAGES_OF, SECTIONS, TARGETS
from training.config import TrainConfig, parse_flags
from training.config.defaults import read_recipe


@dataclasses.dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        name: of the target.
        section: where the results show it.
        flags: of trainer_exp.py, a ``--recipe`` among them, all but the data's.
        published: top-1 in percent as text, None where no figure is known.
        float_twin: the float target to compare with, if any.
    """

    name: str
    section: str
    flags: str
    published: str | None
    float_twin: str | None

    @functools.cached_property
    def epochs(self) -> int:
        """Of the whole target."""
        flags = parse_flags(shlex.split(self.flags))
        return {**parse_flags(read_recipe(flags["recipe"])), **flags}["epochs"]


ALL = {row[0]: Target(row[0], section, *row[1:]) for section, rows in TARGETS.items() for row in rows}


def check_same(what: str, wanted: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises ValueError where the configuration in the log of ``what`` has another value than the one ``wanted``."""
    for name, value in sorted(wanted.items()):
        found = tuple(config[name]) if isinstance(value, tuple) else config[name]
        if found != value:
            raise ValueError(
                f"the log of {what} has {name} {found} instead of {value}: it is of another run; run it again, or "
                "remove the log"
            )


@dataclasses.dataclass(frozen=True)
class Job:
    """A target to be run.

    Attributes:
        target: which one.
        images: from a tree of pictures.
        epochs: of a shorter budget; None: the target's.
    """

    target: Target
    images: bool = False
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.images and self.target.section != IMAGES_OF:
            raise ValueError(f"target {self.target.name!r} is of {self.target.section}; --images is for {IMAGES_OF}")
        if self.epochs is not None and not 1 <= self.epochs <= self.target.epochs:
            raise ValueError(f"--epochs is {self.epochs}; target {self.target.name!r} takes 1 to {self.target.epochs}")

    @property
    def data(self) -> str:
        """What it is trained and tested on, for people."""
        return IMAGES if self.images else self.target.section.partition(",")[0]

    @property
    def name(self) -> str:
        """Of the run's directory; runs on other data or of other length never share one."""
        short = self.epochs not in (None, self.target.epochs)
        return self.target.name + ("_images" if self.images else "") + (f"_{self.epochs}epochs" if short else "")

    @property
    def flags(self) -> list[str]:
        """Of trainer_exp.py, all but the places of data and run."""
        data = IMAGES_FLAGS if self.images else SECTIONS[self.target.section]
        flags = shlex.split(f"{self.target.flags} {data}")
        if self.epochs in (None, self.target.epochs):
            return flags
        given = flags.index("--epochs") if "--epochs" in flags else len(flags)
        return [*flags[:given], *flags[given + 2 :], "--epochs", str(self.epochs)]

    @property
    def command(self) -> str:
        return shlex.join(["python", "trainer_exp.py", *self.flags])

    def check(self, config: dict[str, Any]) -> None:
        """Raises ValueError for the configuration of a run that computed something else."""
        flags = parse_flags(self.flags)
        wanted = vars(TrainConfig.create(**flags))
        names = {*flags, *parse_flags(read_recipe(flags["recipe"])), "augment", "keep_float"}
        check_same(f"target {self.name!r}", {name: wanted[name] for name in names - {"recipe"}}, config)
