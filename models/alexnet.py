"""AlexNet for 227x227, batch norm before each inner layer.

Krizhevsky et al., *ImageNet Classification with Deep Convolutional Neural Networks*, 2012, without groups
and local response normalization, as in XNOR-Net. One layout serves float and binary.
"""

from collections import OrderedDict

from torch import Tensor, nn

from .layers import InputDropout, check_images
from .registry import register_model

EPS = 1e-4  # of every batch norm; from the XNOR-Net reference networks
CONVS = ((96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3))  # in, out, kernel of conv2 to conv5
POOLED = (2, 5)  # of those, the ones that a 3x3 max pool with stride 2 follows


class AlexNet(nn.Module):
    """(N, in_chans, 227, 227) -> (N, num_classes). Inner layers: batch norm -> [sign -> dropout] -> layer -> ReLU."""

    def __init__(self, num_classes=10, in_chans=3, dropout=0.5):
        super().__init__()
        layers = OrderedDict(
            conv1=nn.Conv2d(in_chans, 96, 11, stride=4),
            bn1=nn.BatchNorm2d(96, eps=EPS),
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(3, stride=2),
        )
        for i, (in_channels, out_channels, kernel_size) in enumerate(CONVS, 2):
            layers[f"bn{i}"] = nn.BatchNorm2d(in_channels, eps=EPS)
            layers[f"conv{i}"] = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            if i in POOLED:
                layers[f"pool{i}"] = nn.MaxPool2d(3, stride=2)
        self.features = nn.Sequential(layers)
        self.bn6 = nn.BatchNorm1d(256 * 6 * 6, eps=EPS)
        self.fc1 = nn.Linear(256 * 6 * 6, 4096)
        self.bn7 = nn.BatchNorm1d(4096, eps=EPS)
        self.input_dropout = InputDropout(dropout)
        self.fc2 = nn.Linear(4096, 4096)
        self.bn8 = nn.BatchNorm1d(4096, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.fc3 = nn.Linear(4096, num_classes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "alexnet", 227)
        x = self.features(x).flatten(1)
        x = self.relu(self.fc1(self.bn6(x)))
        x = self.relu(self.input_dropout(self.bn7(x), self.fc2))
        return self.fc3(self.dropout(self.bn8(x)))


@register_model("alexnet", input_size=(3, 227, 227))
def alexnet(num_classes=10, in_chans=3, layout="float", dropout=0.5):
    return AlexNet(num_classes, in_chans, dropout)
