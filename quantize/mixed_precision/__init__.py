"""Which layer takes how many bits: what each choice costs, and the choice that is the smallest or the fastest."""

from .search import LayerChoice as LayerChoice
from .search import MixedPrecision as MixedPrecision
from .search import Option as Option
from .search import search as search
