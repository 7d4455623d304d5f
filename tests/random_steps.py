"""What the steps of random networks compute: modules of four kinds of networks, and functions."""

import dataclasses
import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Modules = dict[str, Callable[[int, int], nn.Module]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of networks.

    Attributes:
        name: of it.
        size: what comes behind the batch in a shape, for so many channels.
        modules: name -> how it is made, from a number, which decides between options, and the channels. Each keeps the
            shape of its input.
        fused: names of those that can be fused, the layer that becomes binary first.
    """

    name: str
    size: Callable[[int], tuple[int, ...]]
    modules: Modules
    fused: tuple[str, ...]

    def images(self, batch: int, channels: int, seed: int) -> torch.Tensor:
        """An input; a few of its values are exactly zero."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((batch, *self.size(channels)), generator=generator)
        return torch.where(torch.rand(x.shape, generator=generator) < 0.05, 0.0, x)


class Shuffle(nn.Module):
    """Of four groups of channels."""

    def forward(self, x):
        return x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)


class NotesShuffle(Shuffle):
    """Writes down what it has seen."""

    def forward(self, x):
        self.feature = x.mean()
        return super().forward(x)


class TurnsShuffle(Shuffle):
    """Puts the samples in another order too."""

    def forward(self, x):
        return super().forward(x.flip(0))


class TwoWays(nn.Module):
    """A container that hands its input on twice."""

    def __init__(self, left: nn.Module, right: nn.Module):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        return self.left(x) - self.right(x)


class Places(nn.Module):
    """A linear layer at each place of an image."""

    def __init__(self, channels: int, bias: bool):
        super().__init__()
        self.linear = nn.Linear(channels, channels, bias=bias)

    def forward(self, x):
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


class InTraining(nn.Sequential):
    """What is in it stays in training, whatever the model's mode."""

    def train(self, mode: bool = True):
        return super().train(True)


class Affine(nn.Module):
    def forward(self, x):
        return 1.5 * x - 0.125


def _scripted(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(code)


def _centred(x: torch.Tensor) -> torch.Tensor:
    return x.float() - x.float().mean()


CENTRED = _scripted(_centred)


def _with_another_forward(module: nn.Module) -> nn.Module:
    module.forward = lambda input: 0.5 - input.abs()
    return module


def _tied(n: int, make: Callable[[], nn.Module]) -> nn.Module:
    """Two layers with one weight."""
    first, second = make(), make()
    second.weight = first.weight
    return nn.Sequential(first, (nn.ReLU(), nn.Hardtanh())[n % 2], second)


# Element by element, for any shape.
_POINTWISE: Modules = {
    "relu": lambda n, c: nn.ReLU(inplace=n % 5 == 0),
    "relu6": lambda n, c: nn.ReLU6(),
    "hardtanh": lambda n, c: nn.Hardtanh(-0.5, 1.5),
    "gelu": lambda n, c: nn.GELU(),
    "dropout": lambda n, c: nn.Dropout(0.5),
    "identity": lambda n, c: nn.Identity(),
    "scripted module": lambda n, c: _scripted(Affine()),
    "another forward": lambda n, c: _with_another_forward((nn.ReLU(), nn.Identity())[n % 2]),
}
# Along the channels of images and sequences.
_CHANNELS: Modules = {
    "shuffle": lambda n, c: (nn.ChannelShuffle(2), Shuffle())[n % 2],
    "no shuffle": lambda n, c: (NotesShuffle(), TurnsShuffle())[n % 2],
    "prelu": lambda n, c: nn.PReLU(c),
}
_IMAGES: Modules = {
    "conv3": lambda n, c: nn.Conv2d(c, c, 3, padding=1, groups=(1, 4, 2)[n % 3], bias=bool(n % 4)),
    "conv1": lambda n, c: nn.Conv2d(c, c, 1, groups=(1, 2)[n % 2]),
    "wide": lambda n, c: nn.Conv2d(c, c, (3, 5), padding=(2, 2) if n % 2 else "same", dilation=(2, 1)),
    "depthwise": lambda n, c: nn.Conv2d(c, c, 3, padding=1, groups=c),
    "replicate": lambda n, c: nn.Conv2d(c, c, 3, padding=1, padding_mode=("replicate", "circular", "reflect")[n % 3]),
    "transposed": lambda n, c: nn.ConvTranspose2d(c, c, 3, padding=1, groups=(1, 2)[n % 2]),
    "places": lambda n, c: Places(c, bool(n % 2)),
    "norm": lambda n, c: nn.BatchNorm2d(c, affine=bool(n % 4)),
    "norm in training": lambda n, c: InTraining(nn.BatchNorm2d(c)),
    "maxpool": lambda n, c: nn.MaxPool2d((3, 1)[n % 2], 1, (1, 0)[n % 2]),
    "avgpool": lambda n, c: nn.AvgPool2d(3, 1, 1),
    "sequence": lambda n, c: nn.Sequential(nn.BatchNorm2d(c), nn.Conv2d(c, c, 1), nn.ReLU()),
    "two ways": lambda n, c: TwoWays(nn.Conv2d(c, c, 1), (nn.Identity(), nn.ReLU())[n % 2]),
    "tied": lambda n, c: _tied(n, lambda: nn.Conv2d(c, c, 1)),
}
_SEQUENCES: Modules = {
    "conv3": lambda n, c: nn.Conv1d(c, c, 3, padding=1, groups=(1, 4, 2)[n % 3], bias=bool(n % 4)),
    "conv1": lambda n, c: nn.Conv1d(c, c, 1, groups=(1, 2)[n % 2]),
    "wide": lambda n, c: nn.Conv1d(c, c, 4, padding="same"),
    "replicate": lambda n, c: nn.Conv1d(c, c, 3, padding=1, padding_mode=("replicate", "circular")[n % 2]),
    "transposed": lambda n, c: nn.ConvTranspose1d(c, c, 3, padding=1),
    "norm": lambda n, c: nn.BatchNorm1d(c, affine=bool(n % 4)),
    "maxpool": lambda n, c: nn.MaxPool1d(3, 1, 1),
    "avgpool": lambda n, c: nn.AvgPool1d(3, 1, 1),
    "sequence": lambda n, c: nn.Sequential(nn.BatchNorm1d(c), nn.Conv1d(c, c, 1), nn.ReLU()),
    "two ways": lambda n, c: TwoWays(nn.Conv1d(c, c, 1), (nn.Identity(), nn.ReLU())[n % 2]),
    "tied": lambda n, c: _tied(n, lambda: nn.Conv1d(c, c, 1)),
}
_LINEAR: Modules = {
    "linear": lambda n, c: nn.Linear(c, c, bias=bool(n % 3)),
    "layer norm": lambda n, c: nn.LayerNorm(c),
    "sequence": lambda n, c: nn.Sequential(nn.LayerNorm(c), nn.Linear(c, c), nn.ReLU()),
    "two ways": lambda n, c: TwoWays(nn.Linear(c, c), (nn.Identity(), nn.ReLU())[n % 2]),
    "tied": lambda n, c: _tied(n, lambda: nn.Linear(c, c)),
    "prelu": lambda n, c: nn.PReLU(),
}
_TOKENS: Modules = {
    # over the tokens, which are no channels of linear layers
    "norm of tokens": lambda n, c: nn.BatchNorm1d(8),
    "shuffle of tokens": lambda n, c: (nn.ChannelShuffle(2), Shuffle())[n % 2],
    "pool of features": lambda n, c: nn.MaxPool1d(3, 1, 1),
}
_ROWS: Modules = {"norm": lambda n, c: nn.BatchNorm1d(c, affine=bool(n % 4)), "shuffle": lambda n, c: Shuffle()}

_BETWEEN = ("norm", "norm", "relu", "sequence")
KINDS = {
    "images": Kind(
        "images", lambda c: (c, 7, 7), {**_IMAGES, **_CHANNELS, **_POINTWISE}, ("conv3", "conv1", *_BETWEEN)
    ),
    "sequences": Kind(
        "sequences", lambda c: (c, 11), {**_SEQUENCES, **_CHANNELS, **_POINTWISE}, ("conv3", "conv1", *_BETWEEN)
    ),
    "tokens": Kind("tokens", lambda c: (8, c), {**_LINEAR, **_TOKENS, **_POINTWISE}, ("linear", "linear", "relu")),
    "rows": Kind("rows", lambda c: (c,), {**_LINEAR, **_ROWS, **_POINTWISE}, ("linear", "linear", *_BETWEEN)),
}
FUNCTIONS = {
    "add": lambda a, b: a + b,
    "functional relu": lambda a, b: F.relu(a),
    "scripted": lambda a, b: CENTRED(a),
    "gate": lambda a, b: a * b.mean(-1, keepdim=True).sigmoid(),
    "view": lambda a, b: a.flatten(1).view(a.shape),
    "half and half": lambda a, b: torch.cat([a[..., : a.shape[-1] // 2], b[..., a.shape[-1] // 2 :]], -1),
    "write into": lambda a, b: a.clone().copy_(b).add_(a),
}
