"""Networks in network: ``nin`` and ``nin_gc`` (group convolution) for 32x32, ``nin_dropout``, ``nin_imagenet``.

Lin et al., *Network In Network*, 2014; Zhang et al., *ShuffleNet*, 2018. Two layouts: "float" has batch
norm after each convolution; "binary" has it before the inner ones, so that the inputs of binary
convolutions have both signs. In "binary" the fourth convolution of nin and nin_gc is 3x3 instead of 5x5.
"""

from collections import OrderedDict

from torch import Tensor, nn

from .layers import ChannelShuffle, InputDropout, check_images
from .registry import register_model


class Block(nn.Sequential):
    """[channel shuffle by ``shuffle`` groups] -> convolution, batch norm (before or after) -> ReLU.

    Args:
        bn: the batch norm; by default a plain one, of the input's channels with ``bn_first``, else of the output's.
        options: further arguments of the convolution.
    """

    def __init__(self, in_channels, out_channels, kernel_size, shuffle=1, bn_first=False, bn=None, **options):
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, **{"padding": kernel_size // 2, **options})
        bn = bn or nn.BatchNorm2d(in_channels if bn_first else out_channels)
        layers = [("shuffle", ChannelShuffle(shuffle))] if shuffle > 1 else []
        layers += [("bn", bn), ("conv", conv)] if bn_first else [("conv", conv), ("bn", bn)]
        super().__init__(OrderedDict([*layers, ("relu", nn.ReLU(inplace=True))]))


class DropoutBlock(Block):
    """Batch norm -> [sign] -> dropout 0.5 -> convolution -> ReLU."""

    def __init__(self, in_channels, out_channels, kernel_size, bn=None):
        super().__init__(in_channels, out_channels, kernel_size, bn_first=True, bn=bn)
        self.dropout = InputDropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.dropout(self.bn(x), self.conv))


class NIN(nn.Module):
    """Nine convolutions in three stages: (N, in_chans, H, W) -> (N, num_classes); H, W at least 4.

    Args:
        widths: output channels of the first eight convolutions.
        groups: groups of the nine convolutions.
        layout: "float" or "binary", see the module's docstring.
    """

    def __init__(self, widths, groups, num_classes=10, in_chans=3, layout="float"):
        super().__init__()
        binary = layout == "binary"
        kernels = (5, 1, 1, 3 if binary else 5, 1, 1, 3, 1, 1)
        channels = (in_chans, *widths, num_classes)
        layers = OrderedDict()
        for i in range(9):
            layers[f"block{i + 1}"] = Block(
                channels[i],
                channels[i + 1],
                kernels[i],
                shuffle=groups[i - 1] if i else 1,
                bn_first=binary and 0 < i < 8,
                groups=groups[i],
            )
            layers.update(_pool_after(i + 1))
        layers["pool3"] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)


def _pool_after(block: int) -> dict[str, nn.Module]:
    """The pooling layer that follows the block of this number in the networks for 32x32, if any."""
    if block == 3:
        return {"pool1": nn.MaxPool2d(3, stride=2, padding=1)}
    if block == 6:
        return {"pool2": nn.AvgPool2d(3, stride=2, padding=1)}
    return {}


class NINDropout(nn.Module):
    """The network in network of the XNOR-Net reference code: (N, in_chans, H, W) -> (N, num_classes).

    One layout for float and binary: batch norm -> [sign -> dropout] -> convolution -> ReLU. It differs from
    ``nin`` in a 5x5 fourth convolution, dropout 0.5 on the inputs of layers 4 and 7, eps 1e-4 in every
    batch norm, no scale and shift in the first and last one, and the last one before its convolution.

    The reference drops signs. So does :class:`InputDropout`, exactly, at the cost of computing the
    two layers twice in training.
    """

    EPS = 1e-4

    def __init__(self, num_classes=10, in_chans=3):
        super().__init__()
        channels = (in_chans, 192, 160, 96, 192, 192, 192, 192, 192, num_classes)
        kernels = (5, 1, 1, 5, 1, 1, 3, 1, 1)
        layers = OrderedDict()
        for i in range(9):
            sizes = channels[i], channels[i + 1], kernels[i]
            bn = nn.BatchNorm2d(channels[max(i, 1)], eps=self.EPS, affine=0 < i < 8)
            dropped = i in (3, 6)
            layers[f"block{i + 1}"] = DropoutBlock(*sizes, bn) if dropped else Block(*sizes, bn_first=i > 0, bn=bn)
            layers.update(_pool_after(i + 1))
        layers["pool3"] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)


class NINImageNet(nn.Module):
    """Twelve convolutions in four stages: (N, in_chans, H, W) -> (N, num_classes); made for 224x224 and 227x227.

    Widths, kernels and the dropout before the last stage are those of the network that the authors published.
    """

    SMALLEST = 67  # leaves one pixel after the third pooling

    def __init__(self, num_classes=10, in_chans=3, layout="float"):
        super().__init__()
        binary = layout == "binary"
        first = (
            Block(in_chans, 96, 11, stride=4, padding=0),
            Block(96, 256, 5, bn_first=binary),
            Block(256, 384, 3, bn_first=binary),
        )
        layers = OrderedDict()
        for stage, block in enumerate(first, 1):
            width = block.conv.out_channels
            layers[f"block{stage}_1"] = block
            layers[f"block{stage}_2"] = Block(width, width, 1, bn_first=binary)
            layers[f"block{stage}_3"] = Block(width, width, 1, bn_first=binary)
            layers[f"pool{stage}"] = nn.MaxPool2d(3, stride=2)
        if not binary:
            layers["dropout"] = nn.Dropout(0.5)
        layers["block4_1"] = DropoutBlock(384, 1024, 3) if binary else Block(384, 1024, 3)
        layers["block4_2"] = Block(1024, 1024, 1, bn_first=binary)
        layers["block4_3"] = Block(1024, num_classes, 1)
        layers["pool4"] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "nin_imagenet", self.SMALLEST, at_least=True)
        return self.features(x).flatten(1)


@register_model("nin", input_size=(3, 32, 32))
def nin(num_classes=10, in_chans=3, layout="float"):
    return NIN((192, 160, 96, 192, 192, 192, 192, 192), (1,) * 9, num_classes, in_chans, layout)


@register_model("nin_gc", input_size=(3, 32, 32))
def nin_gc(num_classes=10, in_chans=3, layout="float"):
    widths = (256, 256, 256, 512, 512, 512, 1024, 1024)
    return NIN(widths, (1, 2, 2, 16, 4, 4, 32, 8, 1), num_classes, in_chans, layout)


@register_model("nin_dropout", input_size=(3, 32, 32))
def nin_dropout(num_classes=10, in_chans=3, layout="float"):
    return NINDropout(num_classes, in_chans)


@register_model("nin_imagenet", input_size=(3, 224, 224))
def nin_imagenet(num_classes=10, in_chans=3, layout="float"):
    return NINImageNet(num_classes, in_chans, layout)
