"""Kinds of command line arguments."""

import argparse


def positive(text: str) -> int:
    """For ``type=`` of an argument: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
