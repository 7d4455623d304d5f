"""The ResNets for CIFAR-10 of He et al., *Deep Residual Learning for Image Recognition*, 2016, 4.2, as teachers.

    python trainer_exp.py --import tools/he_resnets.py --arch nin_xnornet --dataset cifar10 \\
        --teacher he_resnet20:resnet20.th --distill-weight 0.7

Their shortcuts have no parameters (option A), unlike those of ``resnet20`` in models/. The checkpoints of Idelbayev's
"Proper ResNet Implementation for CIFAR10/CIFAR100 in PyTorch" (resnet20.th to resnet110.th; 91.7 to 93.7%) load as they
are. They were trained on images normalized as ImageNet's are, and see images normalized as CIFAR-10's here: the network
converts them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import register_model

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEPTHS = (20, 32, 44, 56, 110)


class Block(nn.Module):
    """Two 3x3 convolutions round which the input goes: every second pixel, and channels of zeros on both sides."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(y + x)


class HeResNet(nn.Module):
    """``depth`` = 6 n + 2: n blocks each of 16, 32 and 64 channels."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))
            for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )
        self.linear = nn.Linear(64, num_classes)
        (mean, std), (seen_mean, seen_std) = (torch.tensor(values).view(2, 3, 1, 1) for values in (IMAGENET, CIFAR10))
        self.register_buffer("factor", seen_std / std, persistent=False)
        self.register_buffer("offset", (seen_mean - mean) / std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x * self.factor + self.offset)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


for _depth in DEPTHS:

    @register_model(f"he_resnet{_depth}", (3, 32, 32))
    def build(num_classes: int = 10, in_chans: int = 3, layout: str = "float", depth: int = _depth) -> nn.Module:
        if in_chans != 3:
            raise ValueError(f"these networks see images of 3 channels, not {in_chans}")
        return HeResNet(depth, num_classes)
