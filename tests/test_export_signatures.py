"""export_onnx of models with inputs and outputs of many kinds: what the file takes and gives is what PyTorch does."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import quantize
from quantize.export.exporter import _random_batch


class Net(nn.Module):
    """A float, a binary and a float layer, and tensors of its own, one of them with the name of the file's output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), quantize.BinaryLinear(8, 8), nn.Linear(8, 3))
        self.output = nn.Parameter(torch.randn(3))
        self.register_buffer("anchors", torch.randn(5))

    def forward(self, x: Tensor):
        return self.layers(x)


@dataclasses.dataclass
class Detections:
    scores: Tensor
    count: int
    features: Tensor


class OwnNames(Net):
    def forward(self, x):
        return self.layers(x) * self.output


class Positions(Net):
    def forward(self, *xs):
        return self.layers(xs[0] - 2 * xs[1])


class Keywords(Net):
    def forward(self, b, **others):
        return self.layers(others["a"] - 2 * b)


class NumbersAndNothing(Net):
    def forward(self, x):
        return 7, None, self.layers(x)


class Constants(Net):
    def forward(self, x):
        return self.layers(x), torch.arange(3.0), torch.tensor(2.0), self.anchors, x


class Dataclass(Net):
    def forward(self, x):
        return Detections(self.layers(x), 3, F.relu(x))


X, Y = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
CASES = {
    OwnNames: (X,),
    Positions: (X, Y),
    Keywords: {"a": X, "b": Y},
    NumbersAndNothing: (X,),
    Constants: (X,),
    Dataclass: (X,),
}


def tensors(outputs) -> list[Tensor]:
    values = vars(outputs).values() if isinstance(outputs, Detections) else outputs
    return [value for value in ([values] if isinstance(values, Tensor) else values) if isinstance(value, Tensor)]


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_the_file_takes_and_gives_the_tensors_of_the_model(kind, tmp_path):
    net, example = kind().eval(), CASES[kind]
    quantize.export_onnx(net, tmp_path / "net.onnx", example)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    if isinstance(example, dict):
        expected, feeds = net(**example), {name: x.numpy() for name, x in example.items()}
    else:
        names = [value.name for value in session.get_inputs()]
        expected, feeds = net(*example), {name: x.numpy() for name, x in zip(names, example, strict=True)}
    found = session.run(None, feeds)
    for y, value in zip(found, tensors(expected), strict=True):
        np.testing.assert_allclose(y, value.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_a_mask_of_infinities_is_checked_with_numbers():
    class Masked(nn.Module):
        def forward(self, x, mask):
            return (x + mask).softmax(1)

    mask = torch.tensor([[0.0, 0.0, -torch.inf]] * 2)
    x, drawn = _random_batch(Masked(), (torch.randn(2, 3), mask), False)
    assert (x.shape, drawn.shape) == ((3, 3), (3, 3))
    assert set(drawn.unique().tolist()) == {0.0, -torch.inf}


def test_a_file_that_does_not_run_on_another_size_is_refused(tmp_path):
    # The exporter writes this pooling with the window of the example's size.
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(18, 2))
    with pytest.raises(quantize.ExportMismatch, match=r"input of shape \(3, 1, 22, 33\).* does not run on it: "):
        quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 1, 11, 11), dynamic_size=True)
    assert not list(tmp_path.iterdir())
