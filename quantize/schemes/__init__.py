"""The built-in schemes: one file each, registered under the file's name."""

from .binaryconnect import BinaryConnect
from .bireal import BiReal
from .bnn import BNN
from .bwn import BWN
from .dorefa import DoReFa
from .irnet import IRNet
from .react import ReAct
from .recu import ReCU
from .ternary import TWN
from .xnor import XNOR
from .xnorpp import XNORPlusPlus

__all__ = [
    "BNN",
    "BWN",
    "TWN",
    "XNOR",
    "BiReal",
    "BinaryConnect",
    "DoReFa",
    "IRNet",
    "ReAct",
    "ReCU",
    "XNORPlusPlus",
]
