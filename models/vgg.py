"""VGG networks with batch norm for 32x32 images: ``vgg11``, ``vgg13``, ``vgg16`` and ``vgg_small``.

Simonyan & Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2015, with
one linear layer as the head, as usual on CIFAR; the published names ``vgg11_bn``, ``vgg13_bn`` and
``vgg16_bn`` are theirs too. vgg_small is the network that binary networks are compared on.

Layouts: "float" is convolution -> batch norm -> ReLU; "binary" has batch norm before each inner
convolution and before the head. Max pooling follows the ReLU, so that it never sees signs.
"""

from collections import OrderedDict

from torch import Tensor, nn

from .layers import check_images
from .registry import register_model

# Output channels of the convolutions; a max pool ends each stage.
STAGES = {
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg13": ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    "vgg_small": ((128, 128), (256, 256), (512, 512)),
}


class VGG(nn.Module):
    """(N, in_chans, 32, 32) -> (N, num_classes).

    Args:
        name: a key of ``STAGES``.
        layout: "float" or "binary", see the module's docstring.
    """

    def __init__(self, name, num_classes=10, in_chans=3, layout="float"):
        super().__init__()
        self.name = name
        layers = OrderedDict()
        channels = in_chans
        for stage, widths in enumerate(STAGES[name], 1):
            for i, width in enumerate(widths, 1):
                bn_first = layout == "binary" and len(layers) > 0
                conv = nn.Conv2d(channels, width, 3, padding=1)
                bn = nn.BatchNorm2d(channels if bn_first else width)
                order = (("bn", bn), ("conv", conv)) if bn_first else (("conv", conv), ("bn", bn))
                layers.update((f"{kind}{stage}_{i}", layer) for kind, layer in order)
                layers[f"relu{stage}_{i}"] = nn.ReLU(inplace=True)
                channels = width
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        if layout == "binary":
            layers["bn"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        last_size = 32 // 2 ** len(STAGES[name])
        self.fc = nn.Linear(channels * last_size**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.name, 32)
        return self.fc(self.features(x).flatten(1))


def _register(name: str) -> None:
    @register_model(name, input_size=(3, 32, 32), aliases=() if name == "vgg_small" else (f"{name}_bn",))
    def build(num_classes=10, in_chans=3, layout="float"):
        return VGG(name, num_classes, in_chans, layout)


for _name in STAGES:
    _register(_name)
