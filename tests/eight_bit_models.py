"""Networks whose float layers 8 bits can hold, and what these then compute, by PyTorch's fake quantization."""

import copy

import torch
from converted_models import spread_norms
from torch import Tensor, nn

import quantize

IMAGES = 40  # more than are calibrated on at a time


def conv_net(*first: nn.Module, channels: int = 24) -> nn.Sequential:
    return nn.Sequential(
        *first, nn.Conv2d(channels, 20, 3, padding=1), nn.BatchNorm2d(20), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(20, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """What follows the first layer is read twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv, self.last = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return self.last((x + self.conv(x)).mean((2, 3)))


class Called(nn.Module):
    """The same layers, called twice, and an output read by another layer too."""

    def __init__(self):
        super().__init__()
        self.conv, self.binary, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.conv(x))
        return self.last(self.binary(x).mean((2, 3))) + x.mean((2, 3)).sum(1, keepdim=True)


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10)
    )


COLOUR, GREY = (3, 12, 12), (1, 12, 12)
# The network, its images, the layers that stay float in the plan, the operators of the file.
NETWORKS = {
    "bits": (
        lambda: conv_net(nn.Conv2d(3, 24, 5, padding=2), nn.BatchNorm2d(24)), COLOUR, ("0", "7"),
        {"Int8ConvToBits": 1, "BinaryConvFromBitsRelu": 1, "Int8Linear": 1},
    ),
    "relu and a pool": (
        lambda: conv_net(nn.Conv2d(3, 24, 3, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        COLOUR, ("0", "9"), {"Int8ConvRelu": 1, "BinaryConvRelu": 1, "Int8Linear": 1},
    ),
    "dilated, no norm": (
        lambda: conv_net(nn.Conv2d(1, 24, 3, dilation=2)), GREY, ("0", "6"),
        {"Int8ConvToBits": 1, "BinaryConvFromBitsRelu": 1, "Int8Linear": 1},
    ),
    "K reads floats": (
        lambda: conv_net(nn.Conv2d(3, 24, 3)), COLOUR, ("0", "6"),
        {"Int8Conv": 1, "BinaryConvReluScaled": 1, "Int8Linear": 1},
    ),
    "read twice": (Residual, COLOUR, ("first", "last"), {"Int8Conv": 1, "BinaryConv": 1, "Int8Linear": 1}),
    "called twice": (Called, (4, 9, 9), ("conv", "last"), {"Int8Conv": 2, "BinaryConv": 1, "Int8Linear": 1}),
    "one channel out": (
        lambda: conv_net(nn.Conv2d(3, 1, 3), channels=1), COLOUR, ("0", "6"),
        {"Int8Conv": 1, "BinaryConvRelu": 1, "Int8Linear": 1},
    ),
    "groups stay float": (
        lambda: conv_net(nn.Conv2d(4, 24, 3, groups=2)), (4, 12, 12), ("0", "6"),
        {"BinaryConvRelu": 1, "Int8Linear": 1},
    ),
    "mlp": (mlp, (3, 4, 4), ("1", "6"), {"Int8Linear": 2, "BinaryConvRelu": 1}),
}  # fmt: skip


def prepared(name: str) -> tuple[nn.Module, Tensor]:
    build, shape, keep_float, _ = NETWORKS[name]
    torch.manual_seed(0)
    x = torch.randn(IMAGES, *shape) + 0.5
    scheme = "xnor:input_scale=True" if name == "K reads floats" else "xnor"
    net = quantize.prepare(build(), scheme, keep_float=keep_float)
    spread_norms(net, x)
    return net.eval(), x


def is_float(layer: nn.Module) -> bool:
    plain = isinstance(layer, (nn.Conv2d, nn.Linear)) and not isinstance(layer, quantize.BinaryLayer)
    return plain and getattr(layer, "groups", 1) == 1


@torch.no_grad()
def rounded(net: nn.Module, x: Tensor) -> nn.Module:
    """The network with its float layers in 8 bits, by PyTorch's own fake quantization."""
    net = copy.deepcopy(net)
    calls = {layer: [] for layer in net.modules() if is_float(layer)}
    handles = [layer.register_forward_pre_hook(lambda layer, args: calls[layer].append(args[0])) for layer in calls]
    net(x)
    for handle in handles:
        handle.remove()
    for layer, inputs in calls.items():
        steps = (layer.weight.abs().flatten(1).amax(1) / 127).clamp(min=1e-30)
        zeros = torch.zeros(len(steps), dtype=torch.int32)
        layer.weight.copy_(torch.fake_quantize_per_channel_affine(layer.weight, steps, zeros, 0, -127, 127))
        turns = iter([*inputs] * 2)

        def hook(layer: nn.Module, args: tuple, turns=turns) -> Tensor:
            seen = next(turns)
            low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
            step = (high - low) / 255
            return torch.fake_quantize_per_tensor_affine(args[0], step, round(-low / step), 0, 255)

        layer.register_forward_pre_hook(hook)
    return net


def with_outlier(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images of which one makes steps coarse, and the classes that the network finds."""
    net, x = prepared(name)
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)  # so that many classes are found
    x[-1] *= 1000
    return net, x, net(x).argmax(1)
