"""Residual networks for 32x32 (``resnet18``, ``resnet20``, ...) and 224x224 images (``resnet18_imagenet``, ...).

He et al., *Deep Residual Learning for Image Recognition*, 2016. Names of parameters are torchvision's, so
that its weights load into the layout "float" of the ImageNet networks. Layouts, w a convolution:

- "float": ReLU after the sum of a block and its shortcut, as published.
- "binary": batch norm -> w -> ReLU, so that binary convolutions see both signs; one shortcut a block.
  He et al., *Identity Mappings in Deep Residual Networks*, 2016, with the order of XNOR-Net.
- "bireal": x + batch norm(w(x)), a shortcut round every convolution, no ReLU. Liu et al., *Bi-Real Net*, 2018.
- "react": the same followed by RPReLU. Liu et al., *ReActNet*, 2020.

Where a block changes size, the shortcut has a 1x1 convolution, which stays float in binary networks.
"""

from torch import Tensor, nn

from .layers import RPReLU
from .registry import FIRST_AND_LAST, register_model

KEEP_FLOAT = (*FIRST_AND_LAST, r".*[.]downsample[.].*")

BASIC, BOTTLENECK = (3, 3), (1, 3, 1)  # kernels of a block's convolutions; the 3x3 that comes first has the stride
EXPANSION = {BASIC: 1, BOTTLENECK: 4}  # output channels of a block / its width


class Block(nn.Module):
    """What the layouts share: convolutions ``conv1``, ..., their batch norms ``bn1``, ..., and ``downsample``."""

    bn_first = False

    def __init__(self, kernels: tuple[int, ...], in_channels: int, width: int, stride: int):
        super().__init__()
        self.depth = len(kernels)
        out_channels = width * EXPANSION[kernels]
        channels = (in_channels, *[width] * (self.depth - 1), out_channels)
        for i, kernel in enumerate(kernels):
            conv_stride = stride if i == kernels.index(3) else 1
            conv = nn.Conv2d(channels[i], channels[i + 1], kernel, conv_stride, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i if self.bn_first else i + 1]))
        same = stride == 1 and in_channels == out_channels
        self.downsample = nn.Identity() if same else self.make_downsample(in_channels, out_channels, stride)

    def make_downsample(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def layers(self) -> list[tuple[nn.Module, nn.Module]]:
        """(convolution, batch norm) in order."""
        return [(getattr(self, f"conv{i}"), getattr(self, f"bn{i}")) for i in range(1, self.depth + 1)]


class FloatBlock(Block):
    """conv -> bn -> ReLU -> conv -> bn, plus the shortcut -> ReLU."""

    def __init__(self, *args):
        super().__init__(*args)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual_sum(x))

    def residual_sum(self, x: Tensor) -> Tensor:
        """What comes out of the convolutions, plus the shortcut."""
        *inner, last = self.layers()
        y = x
        for conv, bn in inner:
            y = self.relu(self.convolve(conv, bn, y))
        return self.convolve(*last, y) + self.downsample(x)

    def convolve(self, conv: nn.Module, bn: nn.Module, x: Tensor) -> Tensor:
        return conv(bn(x)) if self.bn_first else bn(conv(x))


class BinaryBlock(FloatBlock):
    """bn -> conv -> ReLU -> bn -> conv, plus the shortcut."""

    bn_first = True

    def forward(self, x: Tensor) -> Tensor:
        return self.residual_sum(x)


class BiRealBlock(Block):
    """Twice: conv -> bn, plus what went in."""

    def make_downsample(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        # The average pool gives the size that a strided 3x3 convolution gives, of odd sizes too.
        pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        return nn.Sequential(pool, conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)) + self.downsample(x)
        return self.bn2(self.conv2(x)) + x


class ReActBlock(BiRealBlock):
    """Twice: conv -> bn, plus what went in -> RPReLU."""

    def __init__(self, kernels: tuple[int, ...], in_channels: int, width: int, stride: int):
        super().__init__(kernels, in_channels, width, stride)
        self.act1 = RPReLU(width)
        self.act2 = RPReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)) + self.downsample(x))
        return self.act2(self.bn2(self.conv2(x)) + x)


BLOCKS = {"float": FloatBlock, "binary": BinaryBlock, "bireal": BiRealBlock, "react": ReActBlock}


class ResNet(nn.Module):
    """(N, in_chans, H, W) -> (N, num_classes).

    Args:
        kernels: ``BASIC`` or ``BOTTLENECK``.
        depths: blocks of each stage.
        width: of the first stage; each further one has twice as much, at half the resolution.
        layout: a key of ``BLOCKS``; bottlenecks have "float" and "binary".
        imagenet: 7x7 convolution and max pool, resolution / 4, at the start; else a 3x3 convolution.
    """

    def __init__(self, kernels, depths, num_classes=10, in_chans=3, layout="float", width=64, imagenet=False):
        super().__init__()
        stem = {"kernel_size": 7, "stride": 2, "padding": 3} if imagenet else {"kernel_size": 3, "padding": 1}
        self.conv1 = nn.Conv2d(in_chans, width, bias=False, **stem)
        self.bn1 = nn.BatchNorm2d(width)
        # Without ReLU the first binary convolution sees both signs, and so does all that follows on the shortcuts.
        self.relu = nn.Identity() if layout in ("bireal", "react") else nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if imagenet else nn.Identity()
        channels = width
        for i, depth in enumerate(depths):
            stage = nn.Sequential()
            for block in range(depth):
                stride = 2 if i > 0 and block == 0 else 1
                stage.append(BLOCKS[layout](kernels, channels, width * 2**i, stride))
                channels = width * 2**i * EXPANSION[kernels]
            self.add_module(f"layer{i + 1}", stage)
        self.stages = len(depths)
        # The sums of the layout "binary" have passed neither batch norm nor ReLU.
        self.norm = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()) if layout == "binary" else nn.Identity()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(self.avgpool(self.norm(x)).flatten(1))


def _register(name: str, kernels: tuple[int, ...], depths: tuple[int, ...], width: int = 64, imagenet: bool = False):
    extra = ("bireal", "react") if kernels == BASIC else ()
    size = 224 if imagenet else 32

    @register_model(name, input_size=(3, size, size), extra_layouts=extra, keep_float=KEEP_FLOAT)
    def build(num_classes=10, in_chans=3, layout="float"):
        return ResNet(kernels, depths, num_classes, in_chans, layout, width, imagenet)


_register("resnet18", BASIC, (2, 2, 2, 2))
_register("resnet20", BASIC, (3, 3, 3), width=16)
_register("resnet34", BASIC, (3, 4, 6, 3))
_register("resnet50", BOTTLENECK, (3, 4, 6, 3))
_register("resnet18_imagenet", BASIC, (2, 2, 2, 2), imagenet=True)
_register("resnet34_imagenet", BASIC, (3, 4, 6, 3), imagenet=True)
_register("resnet50_imagenet", BOTTLENECK, (3, 4, 6, 3), imagenet=True)
