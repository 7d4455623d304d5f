"""A row of tools/reproducing/variants.py as a run: its flags, and whether a log is one of it."""

import dataclasses
import shlex
from typing import Any

from tools.reproducing import variants
from tools.reproducing.jobs import check_same
from tools.reproducing.kept_logs import PLACES
from training.config import TrainConfig, parse_flags
from training.config.resume import OWN_FLAGS

# What a kept log has without its folders, or not at all; it changes nothing that is computed, or names a file.
NOT_COMPARED = {*PLACES, *OWN_FLAGS, "teacher"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One change of the base command line.

    Attributes:
        name: of the variant, and of its run's directory.
        change: the flags that are added.
        teacher: ARCH:FILE, where the change asks for one.
    """

    name: str
    change: str
    teacher: str | None = None

    @property
    def complete(self) -> bool:
        """Whether it can be run: a teacher that it needs is named."""
        return self.teacher is not None or variants.TEACHER not in self.change

    @property
    def flags(self) -> list[str]:
        """Of trainer_exp.py, all but the places of data and run, and :attr:`imports`."""
        words, imports = shlex.split(f"{variants.BASE} {self.change}"), self.imports
        start = words.index(imports[0]) if imports else len(words)
        words = [*words[:start], *words[start + len(imports) :]]
        return [self.teacher or word if word == variants.TEACHER else word for word in words]

    @property
    def imports(self) -> list[str]:
        """``--import FILE``, which a run that goes on needs again, where the change has it."""
        words = shlex.split(self.change)
        return words[words.index("--import") :][:2] if "--import" in words else []

    def check(self, config: dict[str, Any]) -> None:
        """Raises ValueError for the configuration of a run that computed something else."""
        wanted = dataclasses.asdict(TrainConfig.create(**parse_flags(self.flags)))
        names = wanted.keys() & config.keys() - NOT_COMPARED  # a log does not know flags that came later
        check_same(f"variant {self.name!r}", {name: wanted[name] for name in names}, config)


def list_variants(teacher: str | None = None) -> dict[str, Variant]:
    """All variants by name, those that need one with ``teacher``."""
    return {name: Variant(name, change, teacher) for name, change in variants.VARIANTS.items()}
