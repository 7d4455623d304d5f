"""Fixed-point formats, and which tensor of a network has which.

A format has T magnitude bits, I of them before the binary point; the sign is extra.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantize.words import did_you_mean

MOST_BITS = 24  # float32 holds every integer up to 2^24


@dataclasses.dataclass(frozen=True)
class Format:
    """T = ``total`` magnitude bits, I = ``integer`` of them before the point; I > T leaves only coarse steps.

    Raises ValueError for T outside 1 to 24 or I outside 0 to 24.
    """

    total: int
    integer: int

    def __post_init__(self) -> None:
        for what, bits, least in (("total", self.total, 1), ("integer", self.integer, 0)):
            if not least <= bits <= MOST_BITS:
                raise ValueError(f"a format cannot have {bits} {what} bits; give {least} to {MOST_BITS}")

    @property
    def steps(self) -> float:
        """Steps in 1: ``2^(T - I)``."""
        return 2.0 ** (self.total - self.integer)

    @property
    def largest(self) -> int:
        """Steps in the largest magnitude: ``2^T - 1``."""
        return 2**self.total - 1

    def round(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``q(x) = clip(round(x 2^(T-I)), -(2^T - 1), 2^T - 1) / 2^(T-I)``, and how many values were clipped.

        Any shape, float32; a tie goes to the even integer. The count is an int64 tensor of shape ().
        """
        integers = torch.round(x * self.steps)
        clipped = integers.abs() > self.largest
        return integers.clamp_(-self.largest, self.largest).div_(self.steps), clipped.sum()


# Kinds of tensors. Parameters are none of them: their I follows from their values.
IMAGE, CONV, NORM, LINEAR = KINDS = ("image", "conv", "norm", "linear")
TOTAL_BITS = 15
IMAGE_TOTAL_BITS = 7
INTEGER_BITS = {IMAGE: 0, CONV: 8, NORM: 3, LINEAR: 10}

# Layers with a format of their own, a network.
OWN_FORMATS = {"mlp": {"fc": Format(20, 17)}}


@dataclasses.dataclass(frozen=True)
class Formats:
    """Which tensor has which format.

    Attributes:
        total_bits: T of all but the image and what ``named`` says.
        integer_bits: I by kind.
        named: formats by name, of the outputs of layers and of parameters.
    """

    total_bits: int = TOTAL_BITS
    integer_bits: Mapping[str, int] = dataclasses.field(default_factory=INTEGER_BITS.copy)
    named: Mapping[str, Format] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in KINDS:
            self.of_kind(kind)  # refuses bits out of range

    def of_kind(self, kind: str) -> Format:
        return Format(IMAGE_TOTAL_BITS if kind == IMAGE else self.total_bits, self.integer_bits[kind])

    def of_output(self, name: str, kind: str) -> Format:
        """Of what the layer ``name``, of this kind, gives."""
        return self.named.get(name) or self.of_kind(kind)

    def of_parameter(self, name: str, values: Tensor) -> Format:
        """Of a parameter p: ``I = max(0, ceil(log2 max|p|))``."""
        return self.named.get(name) or Format(self.total_bits, integer_bits(values))

    def check_names(self, known: Iterable[str]) -> None:
        """Raises ValueError for a format of a tensor that the network does not have, with close names."""
        known = set(known)
        for name in self.named:
            if name not in known:
                raise ValueError(f"the network has no tensor {name!r} to give a format: {did_you_mean(name, known)}")


def integer_bits(values: Tensor) -> int:
    """``max(0, ceil(log2 max|p|))`` of values p of any shape; 0 where all are 0."""
    largest = values.detach().abs().max().item()
    mantissa, exponent = math.frexp(largest)  # largest = mantissa 2^exponent, mantissa in [1/2, 1), or 0
    return max(0, exponent - (mantissa == 0.5))


def read_settings(path: Path) -> dict[str, Format]:
    """Formats by name from a file of lines ``NAME T I``; ``#`` starts a comment.

    Raises ValueError for a file that cannot be read, another line, or a name given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(
            f"cannot read the formats in {str(path)!r} ({reason}); give a text file of lines NAME T I, as in 'fc 12 4'"
        ) from error
    formats: dict[str, Format] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        where = f"line {number} of {str(path)!r}"
        if not words:
            continue
        if len(words) != 3 or not all(word.isdecimal() for word in words[1:]):
            raise ValueError(f"{where} is {line.strip()!r}; it must be NAME T I, two whole numbers after the name")
        if words[0] in formats:
            raise ValueError(f"{where} names {words[0]!r} a second time; keep one of the lines")
        try:
            formats[words[0]] = Format(int(words[1]), int(words[2]))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return formats
