"""Networks by name: float modules whose layouts suit binary layers."""

from . import lenet5 as _lenet5
from . import nin as _nin
from .layers import ChannelShuffle
from .registry import ModelSpec, create_model, list_models, register_model, resolve

__all__ = ["ChannelShuffle", "ModelSpec", "create_model", "list_models", "register_model", "resolve"]
