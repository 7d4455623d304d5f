"""export_onnx on whole networks: exported with a batch of 1, run with a batch of 3."""

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx_runs import export_standard as export_onnx
from onnx_runs import onnxruntime_outputs
from torch import nn

import models
import quantize

NETWORKS = {
    "lenet5_xnornet": (lambda: models.create_model("lenet5_xnornet", in_chans=1), (1, 28, 28)),
    "nin_gc_xnornet": (lambda: models.create_model("nin_gc_xnornet"), (3, 32, 32)),
    "torchvision/resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 64, 64)),
    "torchvision/mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), (3, 64, 64)),
    "timm/resnet10t": (lambda: models.create_model("timm/resnet10t"), (3, 64, 64)),
}


def spread_norms(net: nn.Module, x: torch.Tensor) -> None:
    """Batch norms as after training: statistics of data, and weights and biases that differ."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(x)
        for norm in norms:
            if norm.affine:
                norm.weight.normal_(1, 0.3)
                norm.bias.normal_(0, 0.3)


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, tmp_path):
    build, size = NETWORKS[name]
    x = torch.randn(8, *size)
    net = quantize.prepare(build(), "xnor", example_input=x)
    spread_norms(net, x)
    report = export_onnx(net, tmp_path / "net.onnx", x[:1])
    assert report.parity.difference <= 1e-5

    images = torch.randn(3, *size)
    expected = net.eval()(images).detach().numpy()
    found = onnxruntime_outputs(tmp_path / "net.onnx", images)[0]
    # Rounding moves a sign in about 1 of 50 images; the others agree to the last digits.
    agree = [np.abs(a - b).max() <= 1e-5 * np.abs(b).max() for a, b in zip(found, expected, strict=True)]
    assert sum(agree) >= 2

    graph = onnx.load(tmp_path / "net.onnx").graph
    operators = [node.op_type for node in graph.node]
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    binary = [module for module in net.modules() if isinstance(module, quantize.BinaryLayer)]
    assert operators.count("BatchNormalization") == len(norms)
    assert "Sign" not in operators
    stored = [tensor for tensor in graph.initializer if tensor.name.endswith("weight_bits")]
    assert len(stored) == len(binary)
    assert all(tensor.data_type == onnx.TensorProto.INT8 for tensor in stored)
    weights = sum(parameter.numel() for parameter in net.parameters())
    latent = sum(layer.weight.numel() for layer in binary)
    assert report.size < 4 * (weights - latent) + latent + 1000 * len(operators)
