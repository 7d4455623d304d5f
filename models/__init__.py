"""Networks by name: float modules whose layouts suit binary layers, and trained binary ones."""

from . import alexnet, cnn, lenet5, mlp, nin, resnet, vgg  # noqa: F401  importing a file registers its networks
from .layers import ChannelShuffle, InputDropout, RPReLU
from .registry import ModelSpec, list_models, register_model, resolve
from .zoo import Pretrained, create_model, get_pretrained, list_pretrained

__all__ = [
    "ChannelShuffle",
    "InputDropout",
    "ModelSpec",
    "Pretrained",
    "RPReLU",
    "create_model",
    "get_pretrained",
    "list_models",
    "list_pretrained",
    "register_model",
    "resolve",
]
