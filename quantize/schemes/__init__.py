"""The built-in schemes: one file each, registered under the file's name."""

from .binaryconnect import BinaryConnect
from .bnn import BNN
from .bwn import BWN
from .dorefa import DoReFa
from .ternary import TWN
from .xnor import XNOR

__all__ = ["BNN", "BWN", "TWN", "XNOR", "BinaryConnect", "DoReFa"]
