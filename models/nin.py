"""Network in network for 32x32 images, plain (``nin``) and with group convolution and channel shuffle (``nin_gc``).

Lin et al., *Network In Network*, 2014; Zhang et al., *ShuffleNet*, 2018. Two layouts: "float" has a 5x5
fourth convolution and batch norm after each convolution; "binary" has a 3x3 fourth convolution and batch
norm before the seven inner ones, so that the inputs of binary convolutions have both signs.
"""

from collections import OrderedDict

from torch import Tensor, nn

from .layers import ChannelShuffle
from .registry import register_model


class Block(nn.Sequential):
    """[channel shuffle by ``shuffle`` groups] -> convolution, batch norm (before or after) -> ReLU."""

    def __init__(self, in_channels, out_channels, kernel_size, groups=1, shuffle=1, bn_first=False):
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)
        bn = nn.BatchNorm2d(in_channels if bn_first else out_channels)
        layers = [("shuffle", ChannelShuffle(shuffle))] if shuffle > 1 else []
        layers += [("bn", bn), ("conv", conv)] if bn_first else [("conv", conv), ("bn", bn)]
        super().__init__(OrderedDict([*layers, ("relu", nn.ReLU(inplace=True))]))


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
            inner = 0 < i < 8
            layers[f"block{i + 1}"] = Block(
                channels[i],
                channels[i + 1],
                kernels[i],
                groups=groups[i],
                shuffle=groups[i - 1] if i else 1,
                bn_first=binary and inner,
            )
            if i == 2:
                layers["pool1"] = nn.MaxPool2d(3, stride=2, padding=1)
            elif i == 5:
                layers["pool2"] = nn.AvgPool2d(3, stride=2, padding=1)
        layers["pool3"] = nn.AdaptiveAvgPool2d(1)
        self.features = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1)


@register_model("nin", input_size=(3, 32, 32))
def nin(num_classes=10, in_chans=3, layout="float"):
    return NIN((192, 160, 96, 192, 192, 192, 192, 192), (1,) * 9, num_classes, in_chans, layout)


@register_model("nin_gc", input_size=(3, 32, 32))
def nin_gc(num_classes=10, in_chans=3, layout="float"):
    widths = (256, 256, 256, 512, 512, 512, 1024, 1024)
    return NIN(widths, (1, 2, 2, 16, 4, 4, 32, 8, 1), num_classes, in_chans, layout)
