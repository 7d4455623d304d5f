"""LeNet-5 for 28x28 digits, batch norm before each inner layer.

LeCun et al., *Gradient-Based Learning Applied to Document Recognition*, 1998, in the wider form that
binary networks are compared on: 20 and 50 filters, 500 hidden units. One layout serves float and binary.
"""

from collections import OrderedDict

from torch import Tensor, nn

from .layers import check_images
from .registry import register_model

EPS = 1e-4  # of every batch norm; from the XNOR-Net reference networks


class LeNet5(nn.Sequential):
    """(N, in_chans, 28, 28) -> (N, num_classes)."""

    def __init__(self, num_classes=10, in_chans=1):
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(in_chans, 20, 5),
                bn1=nn.BatchNorm2d(20, eps=EPS, affine=False),
                relu1=nn.ReLU(inplace=True),
                pool1=nn.MaxPool2d(2),
                bn2=nn.BatchNorm2d(20, eps=EPS),
                conv2=nn.Conv2d(20, 50, 5),
                relu2=nn.ReLU(inplace=True),
                pool2=nn.MaxPool2d(2),
                bn3=nn.BatchNorm2d(50, eps=EPS),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * 4 * 4, 500),
                relu3=nn.ReLU(inplace=True),
                fc2=nn.Linear(500, num_classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, "lenet5", 28)
        return super().forward(x)


@register_model("lenet5", input_size=(1, 28, 28))
def lenet5(num_classes=10, in_chans=1, layout="float"):
    return LeNet5(num_classes, in_chans)
