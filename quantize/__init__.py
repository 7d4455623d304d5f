"""xnorkit: turn any PyTorch network into a 1-bit network, train it, inspect it and ship it."""

from . import schemes
from .complexity import LayerCost, Summary, summary
from .layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
    BinaryLayer,
    BinaryLinear,
)
from .plan import LayerPlan, Plan, plan
from .prepare import apply_plan, prepare, restore
from .progress import set_progress
from .scheme import QuantizedWeight, Scheme, get_scheme, list_schemes, register_scheme
from .version import __version__

__all__ = [
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv3d",
    "BinaryConvTranspose1d",
    "BinaryConvTranspose2d",
    "BinaryConvTranspose3d",
    "BinaryLayer",
    "BinaryLinear",
    "LayerCost",
    "LayerPlan",
    "Plan",
    "QuantizedWeight",
    "Scheme",
    "Summary",
    "__version__",
    "apply_plan",
    "get_scheme",
    "list_schemes",
    "plan",
    "prepare",
    "register_scheme",
    "restore",
    "schemes",
    "set_progress",
    "summary",
]
