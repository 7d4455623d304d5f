"""What is computed: convolutions of +-1 values, so that every side has the same exact answer."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from quantize.kernels import ConvGeometry


@dataclasses.dataclass(frozen=True)
class Problem:
    """``x`` (N, C, H, W) and ``weight`` (out, C, k, k) of +-1 floats, and their convolution."""

    case: "ConvCase"
    x: Tensor
    weight: Tensor
    expected: Tensor


@dataclasses.dataclass(frozen=True)
class ConvCase:
    """A square convolution with stride 1 that keeps the size of its input."""

    channels: int
    out_channels: int
    kernel: int
    size: int

    @property
    def name(self) -> str:
        return f"{self.channels}-{self.out_channels}-{self.kernel}x{self.kernel}-{self.size}x{self.size}"

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def geometry(self) -> ConvGeometry:
        return ConvGeometry(self.channels, self.out_channels, (self.kernel,) * 2, padding=(self.padding,) * 4)

    def macs(self, batch: int) -> int:
        """Multiply-accumulates, those with padding among them."""
        return batch * self.channels * self.out_channels * self.kernel**2 * self.size**2

    def problem(self, batch: int) -> Problem:
        """The same numbers each time. The answer is torch's own convolution, in double precision."""
        generator = torch.Generator().manual_seed(0)
        x = signs((batch, self.channels, self.size, self.size), generator)
        weight = signs((self.out_channels, self.channels, self.kernel, self.kernel), generator)
        expected = F.conv2d(x.double(), weight.double(), padding=self.padding).float()
        return Problem(self, x, weight, expected)


def signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """+1 and -1 at random."""
    return torch.randint(0, 2, shape, generator=generator).float() * 2 - 1


def _by_name(*cases: ConvCase) -> dict[str, ConvCase]:
    return {case.name: case for case in cases}


# Layers of ResNet-18, of networks in network, and two 1x1.
SHAPES = _by_name(
    ConvCase(64, 64, 3, 56),
    ConvCase(128, 128, 3, 28),
    ConvCase(256, 256, 3, 14),
    ConvCase(512, 512, 3, 7),
    ConvCase(192, 192, 3, 8),
    ConvCase(96, 192, 5, 16),
    ConvCase(256, 256, 1, 14),
    ConvCase(1024, 1024, 1, 8),
)

# The paper's figure 4 b and c; its other sizes: 256 channels, 3x3 filters, 14x14 pixels.
SWEEPS = {
    "channels": _by_name(*(ConvCase(2**i, 256, 3, 14) for i in range(11))),
    "kernel": _by_name(*(ConvCase(256, 256, k, 14) for k in (1, 3, 5, 7, 9, 11))),
}


def papers_speedup(case: ConvCase) -> float:
    """64 c N_W / (c N_W + 64) (XNOR-Net, section 4.1): a word of 64 products against 64 multiplications."""
    weights = case.channels * case.kernel**2
    return 64 * weights / (weights + 64)
