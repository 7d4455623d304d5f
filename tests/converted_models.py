"""Networks as after training, prepared and converted."""

import torch
from torch import nn

import models
import quantize


def spread_norms(net: nn.Module, x: torch.Tensor) -> None:
    """Batch norms as after training: statistics of data; weights and biases that differ, of both signs and zero."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(x)
        for norm in norms:
            if norm.affine:
                norm.weight.normal_(0.5, 1)
                norm.bias.normal_(0, 0.3)
                norm.weight[0] = 0
    net.eval()


def converted(net: nn.Module, x: torch.Tensor, scheme: str = "xnor", **options) -> tuple[nn.Module, nn.Module]:
    """(the prepared network with batch norms as after training, the packed one)."""
    torch.manual_seed(0)
    prepared = quantize.prepare(net, scheme, example_input=x, **options)
    spread_norms(prepared, x)
    return prepared, quantize.convert(prepared, x)


def rows(packed: nn.Module) -> dict[str, quantize.LayerConversion]:
    return {row.name: row for row in quantize.conversion_report(packed)}


def network(scheme: str = "xnor") -> tuple[nn.Module, nn.Module, torch.Tensor]:
    x = torch.randn(4, 3, 32, 32)
    net = models.create_model("nin_gc_xnornet")
    return (*converted(net, x, scheme), x)


class Blocks(nn.Sequential):
    """Batch norm -> convolution, [ReLU, max pool, channel shuffle], batch norm -> convolution."""

    def __init__(self, *between: nn.Module, groups: int = 1):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(64), nn.Conv2d(64, 96, 3, padding=1, groups=groups)
        self.between = nn.Sequential(*between)
        self.bn2, self.conv2 = nn.BatchNorm2d(96), nn.Conv2d(96, 32, 3, padding=1, groups=groups)
