"""The ConvNets of BinaryConnect and BinaryNet for 32x32 images: ``cnn`` (CIFAR-10) and ``cnn_svhn`` (half as wide).

Courbariaux et al., *BinaryConnect*, 2015; *Binarized Neural Networks*, 2016. Convolution -> [max pool] ->
batch norm, then ReLU in the layouts "float" and "weights"; in "binary" the sign takes its place.
"""

from collections import OrderedDict

from torch import Tensor, nn

from .layers import check_images
from .registry import register_model

UNITS = 1024  # of a hidden linear layer


class ConvNet(nn.Module):
    """Six 3x3 convolutions and three linear layers: (N, in_chans, 32, 32) -> (N, num_classes).

    Args:
        name: for messages.
        width: output channels of the first two convolutions; the next two pairs have 2 and 4 times as many.
        layout: "float", "weights" or "binary", see the module's docstring.
    """

    def __init__(self, name, width, num_classes=10, in_chans=3, layout="float"):
        super().__init__()
        self.name = name
        relu = layout != "binary"
        widths = (in_chans, width, width, 2 * width, 2 * width, 4 * width, 4 * width)
        layers = OrderedDict()
        for i, (channels, out_channels) in enumerate(zip(widths, widths[1:], strict=False), 1):
            # Batch norm has the bias; max pooling does not mind a constant.
            layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
            if i % 2 == 0:
                layers[f"pool{i}"] = nn.MaxPool2d(2)
            layers[f"bn{i}"] = nn.BatchNorm2d(out_channels)
            if relu:
                layers[f"relu{i}"] = nn.ReLU(inplace=True)
        layers["flatten"] = nn.Flatten()
        for i, features in enumerate((4 * width * 4 * 4, UNITS), 1):
            layers[f"fc{i}"] = nn.Linear(features, UNITS, bias=False)
            layers[f"bn{i + 6}"] = nn.BatchNorm1d(UNITS)
            if relu:
                layers[f"relu{i + 6}"] = nn.ReLU(inplace=True)
        layers["fc3"] = nn.Linear(UNITS, num_classes)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.name, 32)
        return self.layers(x)


@register_model("cnn", input_size=(3, 32, 32), extra_layouts=("weights",))
def cnn(num_classes=10, in_chans=3, layout="float"):
    return ConvNet("cnn", 128, num_classes, in_chans, layout)


@register_model("cnn_svhn", input_size=(3, 32, 32), extra_layouts=("weights",))
def cnn_svhn(num_classes=10, in_chans=3, layout="float"):
    return ConvNet("cnn_svhn", 64, num_classes, in_chans, layout)
