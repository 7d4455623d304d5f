"""Modules that several tests look at."""

from torch import nn


class Functional(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Backwards(nn.Module):
    """Registers its layers in the opposite order of their execution."""

    def __init__(self):
        super().__init__()
        self.head, self.middle, self.stem = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.middle(self.stem(x)))
