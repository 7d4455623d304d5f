"""Networks by name: float modules whose layouts suit binary layers."""

from . import lenet5, nin  # noqa: F401  importing a file registers its networks
from .layers import ChannelShuffle
from .registry import ModelSpec, create_model, list_models, register_model, resolve

__all__ = ["ChannelShuffle", "ModelSpec", "create_model", "list_models", "register_model", "resolve"]
