"""What the tools' command lines have in common: how they explain themselves, and how they fail."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

from training.installed import as_called, missing_extra


def positive(text: str) -> int:
    """For ``type=`` of an argument: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def tool_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the tool, line by line as it stands there."""
    return argparse.ArgumentParser(
        description=doc and as_called(doc), formatter_class=argparse.RawDescriptionHelpFormatter
    )


def exit_code(program: str, run: Callable[[], int | None]) -> int:
    """What ``run()`` returns, 0 for None; 2, and one sentence, where it raises ValueError or OSError.

    Or where it needs a package of an extra that is not installed.
    """
    try:
        return run() or 0
    except (ValueError, OSError) as error:
        return fail(program, error)
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        return fail(program, sentence)


@contextlib.contextmanager
def imports_of(module: str, program: str) -> Iterator[None]:
    """Around the imports of a module that is a program too: one sentence and exit code 2 where an extra's is missing.

    Only where it is started as one (``module``, its ``__name__``, is "__main__"); whoever imports it gets the error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if module != "__main__" or (sentence := missing_extra(error)) is None:
            raise
        raise SystemExit(fail(program, sentence)) from None


def fail(program: str, message: object) -> int:
    """Say why, in one sentence; the exit code."""
    print(f"{program}: error: {as_called(str(message))}", file=sys.stderr)
    return 2
