"""Modules that several networks share."""

from torch import Tensor, nn


class ChannelShuffle(nn.Module):
    """Interleave ``groups`` groups of n channels: channel ``g * n + i`` moves to ``i * groups + g``.

    (N, C, *) -> (N, C, *); C must be a multiple of ``groups``. Zhang et al., *ShuffleNet*, 2018.
    """

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        # Sizes are never read, so that an exported graph keeps its batch dimension free.
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
