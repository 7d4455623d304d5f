"""convert looks at what leaves a run in any way, compares before it returns, and takes back what changes answers."""

import copy
import math
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from converted_models import Blocks, converted, network, rows
from torch import nn

import quantize
from quantize.calling import evaluation_copy
from quantize.packed import convert as conversion
from quantize.packed import fold
from quantize.packed.check import disagreement, random_like, relative_difference

X = torch.randn(4, 64, 11, 9, generator=torch.Generator().manual_seed(1))


class Keeps(Blocks):
    """Its feature on itself."""

    def forward(self, x):
        self.feature = self.conv1(self.bn1(x))
        return self.conv2(self.bn2(self.feature))


KEPT: list[torch.Tensor] = []


class KeepsOutside(Blocks):
    def forward(self, x):
        y = self.conv1(self.bn1(x))
        KEPT[:] = [y]
        return self.conv2(self.bn2(y))


class Answer:
    """Neither dict, list, tuple nor dataclass."""

    def __init__(self, scores, feature):
        self.scores, self.feature = scores, feature


class ReturnsObject(Blocks):
    kind = SimpleNamespace

    def forward(self, x):
        y = self.conv1(self.bn1(x))
        return self.kind(scores=self.conv2(self.bn2(y)), feature=y)


class ReturnsOwnObject(ReturnsObject):
    kind = Answer


def test_a_feature_on_the_model_is_not_fused():
    prepared, packed = converted(Keeps(), X, keep_float=())
    assert torch.equal(packed(X), prepared(X))
    torch.testing.assert_close(packed.feature, prepared.feature)


def test_a_feature_kept_elsewhere_is_not_fused():
    prepared, packed = converted(KeepsOutside(), X, keep_float=())
    expected, feature = prepared(X), KEPT[0]
    assert torch.equal(packed(X), expected)
    torch.testing.assert_close(KEPT[0], feature)


@pytest.mark.parametrize("kind", [ReturnsObject, ReturnsOwnObject])
def test_an_attribute_of_what_is_returned_is_not_fused(kind):
    prepared, packed = converted(kind(), X, keep_float=())
    assert torch.equal(packed(X).scores, prepared(X).scores)
    torch.testing.assert_close(packed(X).feature, prepared(X).feature)
    assert disagreement(prepared, packed, X) == ""
    packed.conv2.scale = packed.conv2.scale * 1.5  # nothing but an attribute of the object shows it
    packed.conv2.bias = packed.conv2.bias * 1.5
    assert disagreement(prepared, packed, X) == "the output.scores differs by 0.5 of its largest value"


DRAWS = {
    "torch": lambda: float(torch.rand(())),
    "Python": random.random,
    "numpy": np.random.rand,
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_model_that_draws_random_numbers_is_compared_with_the_same_ones(name):
    class Draws(Blocks):
        def forward(self, x):
            return super().forward(x + DRAWS[name]()) * DRAWS[name]()

    prepared = quantize.prepare(Draws(), "xnor", X, keep_float=())
    packed = quantize.convert(prepared, X)
    assert rows(packed)["conv1"].output == "bits"


def test_what_nobody_keeps_is_fused():
    """A circle of references that nobody holds keeps a tensor alive until it is collected."""

    class Circle(Blocks):
        def forward(self, x):
            y = self.conv1(self.bn1(x))
            circle = [y]
            circle.append(circle)
            return self.conv2(self.bn2(y))

    prepared, packed = converted(Circle(), X, keep_float=())
    assert rows(packed)["conv1"].output == "bits"
    assert torch.equal(packed(X), prepared(X))


def half_of_the_mean(x: torch.Tensor) -> torch.Tensor:
    return x.float().mean() / 2


class HalfOfTheMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().mean() / 2


class ReadByFunction(Blocks):
    def forward(self, x):
        y = self.conv1(self.bn1(x))
        return self.conv2(self.bn2(y)) + SCRIPTED(y)


class ReadByModule(Blocks):
    def __init__(self):
        super().__init__()
        self.reader = scripted(HalfOfTheMean())

    def forward(self, x):
        y = self.conv1(self.bn1(x))
        return self.conv2(self.bn2(y)) + self.reader(y)


def scripted(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(code)


SCRIPTED = scripted(half_of_the_mean)


@pytest.mark.parametrize("kind", [ReadByFunction, ReadByModule])
def test_scripted_code_that_reads_a_feature_too(kind):
    prepared, packed = converted(kind(), X, keep_float=())
    torch.testing.assert_close(packed(X), prepared(X))
    assert rows(packed)["conv1"].output == "float"


# The comparison that convert ends with.


def off_by_one(monkeypatch, wrong_width: int) -> None:
    """Thresholds of so many channels are folded wrongly."""
    right = fold.threshold_before

    def wrong(modules, shape, threshold, flip):
        threshold, flip = right(modules, shape, threshold, flip)
        return (threshold + 5 if len(threshold) == wrong_width else threshold), flip

    monkeypatch.setattr(fold, "threshold_before", wrong)


class ThreeBlocks(Blocks):
    def __init__(self):
        super().__init__()
        self.bn3, self.conv3 = nn.BatchNorm2d(32), nn.Conv2d(32, 16, 1)


def test_a_wrong_fusion_is_taken_back_and_named(monkeypatch):
    prepared = quantize.prepare(ThreeBlocks(), "xnor", X, keep_float=())
    with torch.no_grad():
        prepared.train()(X)
    prepared.eval()
    expected = prepared(X)
    off_by_one(monkeypatch, 96)
    assert not torch.allclose(quantize.convert(prepared, X, check=False)(X), expected, rtol=0.05)
    packed = quantize.convert(prepared, X)
    torch.testing.assert_close(packed(X), expected)
    table = rows(packed)
    assert (table["conv1"].output, table["conv2"].output) == ("float", "bits")
    assert "bn2 and conv2 are not fused: the answers would differ" in str(quantize.conversion_report(packed))


def test_layers_that_are_wrong_by_themselves_are_an_error(monkeypatch):
    right = conversion.pack_layer

    def wrong(layer):
        packed = right(layer)
        packed.scale = packed.scale * 1.01
        return packed

    monkeypatch.setattr(conversion, "pack_layer", wrong)
    prepared = quantize.prepare(Blocks(), "xnor", X, keep_float=())
    with pytest.raises(quantize.ConversionMismatch, match=r"not compute what .*: the output differs by 0\.00?9"):
        quantize.convert(prepared, X)
    assert isinstance(quantize.convert(prepared, X, check=False).conv1, quantize.PackedConv2d)


def test_signs_that_rounding_has_moved_are_no_disagreement():
    prepared, packed, x = network()
    prepared = evaluation_copy(prepared)
    assert disagreement(prepared, packed, x) == ""
    layers = [module for module in packed.modules() if isinstance(module, quantize.PackedLayer)]
    packed(x)
    with torch.no_grad():
        layers[0].threshold += 1e-5
    assert not torch.equal(packed(x), prepared(x))
    assert disagreement(prepared, packed, x) == ""
    with torch.no_grad():
        layers[0].threshold += 1e-1
    assert "signs that are others" in disagreement(prepared, packed, x)


LAYERS = {
    "images": (lambda: nn.Conv2d(8, 8, 3, padding=1, bias=False), (3, 8, 6, 7)),
    "sequences": (lambda: nn.Conv1d(8, 8, 3, bias=False), (3, 8, 15)),
    "tokens": (lambda: nn.Linear(8, 8, bias=False), (3, 5, 8)),
    "rows": (lambda: nn.Linear(8, 8, bias=False), (6, 8)),
}


@pytest.mark.parametrize("second", ["xnor", "xnor:input_scale=true", "bwn"], ids=["signs", "scaled", "floats"])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_a_moved_sign_makes_of_later_layers_is_no_disagreement(kind, second):
    """Layers that get signs, signs and floats for a scale, or floats; a wrong one before them is named."""
    build, shape = LAYERS[kind]
    x = torch.randn(shape)
    x.view(-1)[::7] = 1e-6
    net = nn.Sequential(build(), nn.PReLU(), build(), nn.PReLU(), build())
    prepared = quantize.prepare(net, "xnor", x, keep_float=(), overrides={"2": second}).eval()
    packed = quantize.convert(prepared, x)
    assert packed[0].threshold is None
    packed[0].threshold = torch.full((8,), 2e-6)  # moves each seventh sign
    assert not torch.allclose(packed(x), prepared(x), rtol=0.01)
    assert disagreement(prepared, packed, x) == ""
    packed[0].scale = packed[0].scale * 1.5  # whose signs are the same
    wrong = "" if second == "xnor" else "the input of '2' differs by 0.5 of its largest value"
    assert disagreement(prepared, packed, x) == wrong
    packed[0].threshold = torch.full((8,), 0.2)
    between = int(((x > 2e-6) & (x < 0.2)).sum())  # a sign that is so near to its threshold may move
    assert disagreement(prepared, packed, x) == f"the input of '0' has {between} of {x.numel():,} signs that are others"


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1, 2], [1, 2], 0),  # class indices, say
        ([1, 3], [1, 2], math.inf),
        ([1.0, 2.0], [1, 2], math.inf),
        ([1.0, 2.0], [1.0, 2.0, 3.0], math.inf),
        ([1.0, math.nan, 4.0], [1.0, math.nan, 5.0], 0.2),
        ([1.0, math.nan], [math.nan, 1.0], math.inf),
        ([1.0, math.inf], [1.0, math.inf], 0),
    ],
)
def test_how_much_tensors_differ(found, expected, difference):
    assert relative_difference(torch.tensor(found), torch.tensor(expected)) == pytest.approx(difference)


def test_another_input_of_the_same_shapes():
    few = {"one": torch.full((1,), 500.0), "two": torch.tensor([-1e6, 1e6])}
    example = {"x": torch.randn(1000) * 3 + 5, "ids": torch.arange(10), "n": 3, "none": torch.zeros(0), **few}
    other = random_like(example)
    assert (other["n"], other["none"].shape) == (3, (0,))
    assert sorted(other["ids"].tolist()) == list(range(10))
    assert not torch.equal(other["x"], example["x"])
    assert abs(other["x"].mean() - 5) < 0.5
    assert abs(other["x"].std() - 3) < 0.5
    assert 0 < abs(other["one"] - 500) < 10  # a single value deviates by 1
    assert other["two"].abs().max() > 1e4


def test_converting_leaves_no_trace_of_its_runs():
    class Counts(Blocks):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    prepared = quantize.prepare(Counts(), "xnor", X, keep_float=())
    prepared.calls = 0
    packed = quantize.convert(prepared, X)
    assert (prepared.calls, packed.calls) == (0, 0)


# Bits on their way between layers.


def test_bits_cannot_be_taken_for_numbers():
    _, packed = converted(Blocks(nn.MaxPool2d(2)), X, keep_float=())
    bits = packed.between(packed.conv1(packed.bn1(X)))
    words = bits.words
    assert bits != type(bits)(words)
    assert len({bits, bits}) == 1  # they are themselves, and equal to nothing else
    assert torch.equal(packed.conv2(bits), packed(X))
    for touch in (
        lambda: torch.relu(bits),
        lambda: bits + 1,
        lambda: words + bits,
        lambda: bits.float(),
        lambda: torch.stack([bits, bits]),
        lambda: np.asarray(bits),
        lambda: nn.Conv2d(96, 8, 1)(bits),
    ):
        with pytest.raises((TypeError, AttributeError), match="bits that one packed layer hands to|unsupported"):
            touch()


class MeanOfNormalized(nn.Module):
    """An output that is 0 but for rounding."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(64, 64), nn.Linear(64, 64), nn.LayerNorm(64)

    def forward(self, x):
        return self.norm(self.second(self.first(x))).mean(-1)


@pytest.mark.parametrize("scheme", ["bwn", "dorefa", "binaryconnect"])
def test_values_that_cancel_leave_rounding_alone(scheme):
    x = torch.randn(4, 64)
    prepared = quantize.prepare(MeanOfNormalized(), scheme, x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    assert packed(x).abs().max() < 1e-5


def test_a_small_output_is_compared_all_the_same():
    x = torch.randn(4, 3, 8, 8)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
    prepared = quantize.prepare(nn.Sequential(*layers), "xnor", x, keep_float=("first",)).eval()
    packed = quantize.convert(prepared, x)
    with torch.no_grad():
        prepared[2].bias.mul_(0)
        packed[2].bias.mul_(0)
        packed[2].scale.mul_(1e-4)
        wrong = copy.deepcopy(packed)
        wrong[2].scale.mul_(1.01)
        prepared[2].register_forward_hook(lambda module, args, output: output * 1e-4)
    assert disagreement(prepared, packed, x) == ""
    assert "differs by 0.01" in disagreement(prepared, wrong, x)
