"""How a flag is declared, and what follows from that: the parser, the checks of single values, the guide's table.

A flag is a field of a dataclass, made by :func:`flag`; its type is the field's. Nothing here imports torch, so that a
mistyped flag is refused at once.
"""

import argparse
import dataclasses
import difflib
import json
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_args, get_origin

from ..installed import TRAINER, as_called

FLOAT_SCHEMES = ("none", "float")  # of --scheme and --override: the float twin of the same layout


class Rule(NamedTuple):
    """Which values are valid; ``words`` go on from "it must"."""

    holds: Callable[[Any], bool]
    words: str


def at_least(low: int) -> Rule:
    return Rule(lambda value: value >= low, f"be at least {low}")


NOT_NEGATIVE = Rule(lambda value: 0 <= value < math.inf, "be at least 0, and finite")
POSITIVE = Rule(lambda value: 0 < value < math.inf, "be positive, and finite")
SHARE = Rule(lambda value: 0 <= value <= 1, "lie between 0 and 1")
BELOW_1 = Rule(lambda value: 0 <= value < 1, "be at least 0 and below 1")
IN_64_BITS = Rule(lambda value: -(2**63) <= value < 2**63, "fit into 64 bits, from -2**63 to 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class Flag:
    """What a field is on the command line.

    Attributes:
        group: the heading that it stands under.
        help: what it is, beside its choices and its default.
        name: as it is written; that of the field where none is given.
        aliases: other ways to write it.
        metavar: what its value is called.
        noun: what an error calls it instead of the flag.
        choices: the valid names, where nobody can add one.
        rule: the valid numbers.
        parse: from text to a value, where the field's type does not say it.
        alone: its value where it is written without one; None: it needs one.
        many: "*" where it takes no value or more, of a field that is a tuple; else it takes one or more.
        resume: what a run that goes on does: "same" keeps the saved value, "free" may change it, "own" takes it from
            its own command line alone, and no checkpoint holds it.
    """

    group: str
    help: str = ""
    name: str = ""
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    noun: str | None = None
    choices: tuple[str, ...] = ()
    rule: Rule | None = None
    parse: Callable[[str], Any] | None = None
    alone: str | None = None
    many: str = "+"
    resume: str = "same"

    def typed(self, argv: Sequence[str]) -> str | None:
        """How ``argv`` spells it; None where it does not, or in several ways."""
        spellings = (self.name, *self.aliases)
        found = {spelling for spelling in spellings for word in argv if _is(spelling, word)}
        return found.pop() if len(found) == 1 else None


def _is(spelling: str, word: str) -> bool:
    """``-b7`` and ``--batch-size=7`` are ways to write a flag too."""
    return word.startswith(spelling) if len(spelling) == 2 else word.partition("=")[0] == spelling


def flag(group: str, help: str = "", *aliases: str, **options: Any) -> Any:
    """A field that is a flag; ``options`` are those of :class:`Flag`, and ``default`` or ``default_factory``."""
    default = {name: options.pop(name) for name in ("default", "default_factory") if name in options}
    return dataclasses.field(**default, metadata={"flag": Flag(group, help, aliases=aliases, **options)})


def flags_of(config: type) -> Iterator[tuple[dataclasses.Field, Flag]]:
    """The fields of ``config``, each with its flag."""
    for field in dataclasses.fields(config):
        flag = field.metadata["flag"]
        yield field, dataclasses.replace(flag, name=flag.name or f"--{field.name.replace('_', '-')}")


def changed_by_resume(config: type, how: str) -> tuple[str, ...]:
    """The fields of ``config`` that a run that goes on treats in this way; see :class:`Flag`."""
    return tuple(field.name for field, flag in flags_of(config) if flag.resume == how)


def check_all(config: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError for the first of the ``values`` that its flag does not take."""
    for field, flag in flags_of(config):
        value = values.get(field.name)
        if value is None:
            continue
        if flag.choices and value not in flag.choices:
            raise ValueError(f"unknown {flag.noun or flag.name} {value!r}: {did_you_mean(str(value), flag.choices)}")
        if flag.rule and not flag.rule.holds(value):
            raise ValueError(f"{flag.name} is {value}; it must {flag.rule.words}")


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """The end of an error, in the words of :mod:`quantize.words`, which cannot be imported without torch."""
    valid = sorted(valid)
    close = difflib.get_close_matches(word, valid, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}valid: {', '.join(valid[:12])}" + (f", ... ({len(valid)} in all)" if len(valid) > 12 else "")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of argparse's page of usage."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


class _Override(argparse.Action):
    """Collect ``--override PATTERN=SCHEME`` into a dict, and those of a file; "none" means float."""

    def __call__(self, parser, namespace, value, option_string=None):
        pattern, equals, scheme = value.partition("=")
        if pattern.endswith(".json") and not equals:
            more = self._in_file(parser, value)
        elif pattern and equals and scheme:
            more = {pattern: None if scheme in FLOAT_SCHEMES else scheme}
        else:
            parser.error(f"argument --override: {value!r} is not PATTERN=SCHEME, PATTERN=none or a .json file")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), **more})

    @staticmethod
    def _in_file(parser: argparse.ArgumentParser, path: str) -> dict[str, str | None]:
        """What tools/search.py and quantize.search write."""
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            parser.error(f"argument --override: {path!r} cannot be read: {error}")
        overrides = content.get("overrides") if isinstance(content, dict) else None
        if not isinstance(overrides, dict) or not all(isinstance(s, str | None) for s in overrides.values()):
            parser.error(f'argument --override: {path!r} has no "overrides", an object of layer: scheme or null')
        return overrides


class _Evaluate(argparse.Action):
    """``--valuate`` without a checkpoint is how older trainers were asked for a test after each epoch."""

    def __call__(self, parser, namespace, value, option_string=None):
        if value or option_string != "--valuate":
            setattr(namespace, self.dest, value)


_ACTIONS = {"overrides": _Override, "evaluate": _Evaluate}


def parser_of(config: type, description: str | None = None, argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The flags of ``config``; where an error names one, in the spelling of ``argv``.

    One that is not given leaves nothing in the namespace, so that defaults can follow the network.
    """
    parser = _Parser(
        prog=as_called(TRAINER),
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for field, flag in flags_of(config):
        if flag.group not in groups:
            groups[flag.group] = parser.add_argument_group(flag.group)
        help = _meaning(field, flag).replace("%", "%%")
        action = groups[flag.group].add_argument(
            flag.name, *flag.aliases, dest=field.name, help=help, **_options(field, flag)
        )
        if typed := flag.typed(argv):
            action.option_strings = [typed]  # what errors show; how it is parsed is settled
    return parser


def _options(field: dataclasses.Field, flag: Flag) -> dict[str, Any]:
    """What argparse is told of a flag beside its names and help."""
    kind = _kind(field)
    if kind is bool:
        return {"action": "store_true"}
    options: dict[str, Any] = {"metavar": flag.metavar}
    if get_origin(kind) is tuple:
        kind, options["nargs"] = get_args(kind)[0], flag.many
    if flag.alone is not None:
        options |= {"nargs": "?", "const": flag.alone}
    if field.name in _ACTIONS:
        return options | {"action": _ACTIONS[field.name]}
    return options | {"type": flag.parse or kind}


def _kind(field: dataclasses.Field) -> Any:
    """The type of its values but None: ``int`` of ``int | None``."""
    return get_args(field.type)[0] if isinstance(field.type, types.UnionType) else field.type


def _meaning(field: dataclasses.Field, flag: Flag) -> str:
    """Choices, meaning and default, as --help and the guide show them."""
    default = field.default
    parts = [", ".join(flag.choices), flag.help]
    if type(default) in (int, float) or isinstance(default, str):
        parts.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
    return "; ".join(filter(None, parts))


def as_typed(message: str, config: type, argv: Sequence[str]) -> str:
    """``message`` with the flags in the spelling of ``argv``: whoever writes --wd is not told of --weight-decay."""
    for _, flag in flags_of(config):
        if typed := flag.typed(argv):
            message = re.sub(rf"(?<![\w-]){re.escape(flag.name)}(?![\w-])", typed, message)
    return message


def flag_table(config: type) -> str:
    """The guide's table of all flags."""
    lines, group = ["| flag | |", "|---|---|"], None
    for field, flag in flags_of(config):
        if flag.group != group:
            lines.append(f"| **{flag.group}** | |")
        group = flag.group
        value = "" if _kind(field) is bool else f" {flag.metavar or field.name.upper()}"
        names = ", ".join([f"`{flag.name}{value}`", *(f"`{alias}`" for alias in flag.aliases)])
        lines.append(f"| {names} | {_meaning(field, flag)} |".replace("<", "\\<"))
    return "\n".join(lines)
