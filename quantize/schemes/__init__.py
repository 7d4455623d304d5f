"""The built-in schemes: one file each, registered under the file's name. A new one is a line more here."""

from .binaryconnect import BinaryConnect as BinaryConnect
from .bireal import BiReal as BiReal
from .bnn import BNN as BNN
from .bwn import BWN as BWN
from .dorefa import DoReFa as DoReFa
from .int8 import Int8 as Int8
from .irnet import IRNet as IRNet
from .react import ReAct as ReAct
from .recu import ReCU as ReCU
from .ternary import TWN as TWN
from .xnor import XNOR as XNOR
from .xnorpp import XNORPlusPlus as XNORPlusPlus
