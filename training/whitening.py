"""First filters that whiten the training images, instead of random ones."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quantize.binary.layers import FLOAT_CLASSES

WHITENED_IMAGES = 5000
EPS = 5e-4  # beside eigenvalues of normalized images, the largest of which are above 1: keeps noise small


@torch.no_grad()
def whiten_first(model: nn.Module, batches: Iterable[Tensor]) -> nn.Conv2d:
    """Let the first convolution of ``model`` start with filters that whiten patches of images; it is returned.

    Filters 2i and 2i + 1 are plus and minus ``v_i / sqrt(l_i + eps)``, eps = 5e-4, with l_0 >= l_1 >= ... the
    eigenvalues and v_i the eigenvectors of the covariance of all patches that the convolution sees, those that reach
    into its padding left out: their outputs are uncorrelated, of variance near 1. What filters are left keep their
    start, and so does a bias. Page, *How to Train Your ResNet 8*, 2019; the signs: Jordan, *94% on CIFAR-10 in 3.29
    Seconds on a Single GPU*, 2024.

    Args:
        model: on the CPU.
        batches: normalized images (N, C, H, W).

    Raises ValueError for a network whose first layer is no convolution over all channels.
    """
    images = iter(batches)
    first = next(images).cpu()
    name, layer = first_layer(model, first[:1])
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        kind = type(layer).__name__
        raise ValueError(
            f"--whiten needs a network that starts with a convolution over all channels; this one starts with {name!r} "
            f"({kind}); leave it out"
        )
    sums = PatchSums(layer)
    sums.add(first)
    for batch in images:
        sums.add(batch.cpu())
    values, vectors = torch.linalg.eigh(sums.covariance())  # eigenvalues rise; a column is an eigenvector
    filters = (vectors / (values.clamp(min=0) + EPS).sqrt()).T.flip(0)
    signed = torch.stack([filters, -filters], 1).flatten(0, 1)[: len(layer.weight)]
    layer.weight[: len(signed)] = signed.view(-1, *layer.weight.shape[1:]).to(layer.weight.dtype)
    return layer


class PatchSums:
    """Sums over the patches (C * kernel height * kernel width values each) of images, as ``layer`` cuts them."""

    def __init__(self, layer: nn.Conv2d):
        self.layer = layer
        size = layer.weight[0].numel()
        self.count = 0
        self.values, self.products = torch.zeros(size).double(), torch.zeros(size, size).double()

    def add(self, images: Tensor) -> None:
        kernel, dilation, stride = self.layer.kernel_size, self.layer.dilation, self.layer.stride
        patches = F.unfold(images.double(), kernel, dilation, stride=stride).transpose(0, 1).flatten(1)
        self.count += patches.shape[1]
        self.values += patches.sum(1)
        self.products += patches @ patches.T

    def covariance(self) -> Tensor:
        mean = self.values / self.count
        return self.products / self.count - torch.outer(mean, mean)


def first_layer(model: nn.Module, images: Tensor) -> tuple[str, nn.Module]:
    """(name, module) of the convolution or linear layer that ``model`` calls first; its mode stays."""
    called: list[tuple[str, nn.Module]] = []
    kinds = tuple(FLOAT_CLASSES.values())
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, kinds))
    hooks = [m.register_forward_pre_hook(lambda m, args, name=name: called.append((name, m))) for name, m in layers]
    training = model.training
    try:
        model.eval()(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return called[0] if called else ("", model)
