"""Networks by name: float modules whose layouts suit binary layers."""

from . import alexnet, cnn, lenet5, mlp, nin, resnet, vgg  # noqa: F401  importing a file registers its networks
from .layers import ChannelShuffle, InputDropout, RPReLU
from .registry import ModelSpec, create_model, list_models, register_model, resolve

__all__ = [
    "ChannelShuffle",
    "InputDropout",
    "ModelSpec",
    "RPReLU",
    "create_model",
    "list_models",
    "register_model",
    "resolve",
]
