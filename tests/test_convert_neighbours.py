"""convert on models that hold, call and watch their layers in ways of their own: the answers stay the same."""

import dataclasses
import functools
import warnings

import pytest
import torch
from converted_models import Blocks, converted, rows
from torch import Tensor, nn

import quantize


class Shuffle(nn.Module):
    """Of two groups of channels."""

    def forward(self, x):
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class InLists(Blocks):
    """Calls its layers through a list that is no ModuleList."""

    def __init__(self):
        super().__init__(nn.ReLU())
        self.order = [self.bn1, self.conv1, self.bn2, self.conv2]

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x


def test_layers_in_a_list_of_the_model_s_own_are_replaced_too():
    x = torch.randn(4, 64, 11, 9)
    prepared, packed = converted(InLists(), x, keep_float=())
    assert isinstance(packed.order[1], quantize.PackedConv2d)
    assert packed.order[3] is packed.conv2
    assert torch.equal(packed(x), prepared(x))


@dataclasses.dataclass
class Output:
    scores: Tensor
    map: Tensor


class ReturnsDataclass(Blocks):
    def forward(self, x):
        x = self.bn2(self.between(self.conv1(self.bn1(x))))
        return Output(self.conv2(x), x)


def test_what_a_dataclass_returns_is_not_fused():
    x = torch.randn(4, 64, 11, 9)
    prepared, packed = converted(ReturnsDataclass(nn.ReLU()), x, keep_float=())
    assert torch.equal(packed(x).scores, prepared(x).scores)
    torch.testing.assert_close(packed(x).map, prepared(x).map)


@pytest.mark.parametrize("pre", [False, True])
def test_what_the_hook_of_a_container_gets_is_not_fused(pre):
    x = torch.randn(4, 64, 11, 9)
    net = nn.Sequential(Blocks(nn.ReLU(), nn.Sequential(nn.Identity())))
    seen = []
    where = net[0].between[1]  # it keeps what it gets without a look at it
    if pre:
        where.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    else:
        where.register_forward_hook(lambda _, __, output: seen.append(output))
    prepared, packed = converted(net, x, keep_float=())
    assert rows(packed)["0.conv1"].output == "float"
    seen.clear()
    torch.testing.assert_close(packed(x), prepared(x))
    torch.testing.assert_close(seen[0], seen[1])


class ByKeyword(Blocks):
    def forward(self, x):
        x = self.between(self.conv1(input=self.bn1(input=x)))
        return self.conv2(input=self.bn2(input=x))


class PoolByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.shuffle = nn.MaxPool2d(2), Shuffle()

    def forward(self, x):
        return self.pool(input=self.shuffle(x=x))


@pytest.mark.parametrize("between", [[nn.ReLU(), nn.MaxPool2d(2)], [PoolByKeyword()]])
def test_modules_that_are_called_by_keywords(between):
    x = torch.randn(4, 64, 11, 9)
    prepared, packed = converted(ByKeyword(*between), x, keep_float=())
    assert torch.equal(packed(x), prepared(x))


class PoolInput(Blocks):
    """Only its pooling, which bits can do, gets a keyword."""

    def forward(self, x):
        return self.conv2(self.bn2(self.between[0](input=self.conv1(self.bn1(x)))))


def test_a_pooling_of_bits_that_is_called_by_keyword():
    x = torch.randn(4, 64, 11, 9)
    prepared, packed = converted(PoolInput(nn.MaxPool2d(2)), x, keep_float=())
    assert rows(packed)["conv1"].output == "bits"
    assert torch.equal(packed(x), prepared(x))


def test_a_hook_that_takes_keywords_goes_along():
    x = torch.randn(4, 6, 7, 7)
    prepared = quantize.prepare(nn.Sequential(nn.Conv2d(6, 9, 3)), "xnor", keep_float=())
    prepared[0].register_forward_hook(lambda _, args, kwargs, output: (output, kwargs), with_kwargs=True)
    prepared[0].register_forward_pre_hook(lambda _, args, kwargs: ((args[0] + 0.5,), kwargs), with_kwargs=True)
    y, kwargs = quantize.convert(prepared, x)(x)
    assert torch.equal(y, prepared.eval()(x)[0])
    assert kwargs == {}


# Layers, what stands between them, and an input in which it works along another dimension than the layers' channels.
OTHER_DIMENSIONS = {
    "shuffled tokens": (nn.Linear(64, 64), [nn.ChannelShuffle(2)], (3, 4, 64)),
    "pooled tokens": (nn.Linear(64, 64), [nn.MaxPool2d((2, 1))], (3, 4, 64)),
    "pooled maps of features": (nn.Linear(64, 64), [nn.MaxPool2d((2, 1))], (3, 4, 5, 64)),
    "pooled features, shuffled": (nn.Linear(64, 64), [nn.MaxPool1d(3, 1, 1), Shuffle()], (6, 64)),
    "one sample": (nn.Conv2d(64, 64, 1), [nn.MaxPool2d(2)], (64, 8, 8)),
    "2-D pooling of sequences": (nn.Conv1d(64, 64, 1), [nn.MaxPool2d((1, 2))], (3, 64, 8)),
    "pooled channels, shuffled": (nn.Conv1d(64, 64, 1), [nn.AvgPool2d((3, 1), 1, (1, 0)), Shuffle()], (3, 64, 8)),
}


@pytest.mark.parametrize("name", OTHER_DIMENSIONS)
@pytest.mark.parametrize("last", [True, False])
def test_what_works_along_other_dimensions_stays(name, last):
    """Before another packed layer, and at the end."""
    layer, between, shape = OTHER_DIMENSIONS[name]
    net = nn.Sequential(layer, *between, nn.Conv2d(64, 8, 1) if isinstance(layer, nn.Conv2d) else nn.Identity())
    if last and not isinstance(layer, nn.Conv2d):
        net[-1] = nn.Linear(64, 8) if isinstance(layer, nn.Linear) else nn.Conv1d(64, 8, 1)
    x = torch.randn(shape)
    prepared, packed = converted(net, x, keep_float=())
    torch.testing.assert_close(packed(x), prepared(x), rtol=1e-6, atol=1e-6)


# What follows a packed layer, as far as it may take the first of it, and something that it must not take behind that.
BEHIND = {
    "a layer that needs floats": ([nn.Conv2d(64, 64, 1), nn.ReLU()], "xnor:input_scale=true"),
    "a layer that expands its bits": ([nn.Conv2d(64, 64, 1), nn.ReLU()], "bwn"),
    "a batch norm after its pooling": ([nn.MaxPool2d(2), nn.BatchNorm2d(64)], None),
    "a batch norm after its ReLU": ([nn.ReLU(), nn.BatchNorm2d(64), nn.ReLU()], None),
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_layer_takes_nothing_from_behind_what_it_leaves_standing(name):
    """No comparison is needed to see it."""
    after, scheme = BEHIND[name]
    x = torch.randn(4, 64, 11, 9)
    overrides = {} if scheme is None else {"1": scheme}
    prepared, _ = converted(nn.Sequential(nn.Conv2d(64, 64, 3), *after), x, keep_float=(), overrides=overrides)
    packed = quantize.convert(prepared, x, check=False)
    assert type(packed[0]) is quantize.PackedConv2d
    torch.testing.assert_close(packed(x), prepared(x))


def test_a_layer_takes_nothing_from_before_a_pooling():
    """Where a batch norm turns the order of values round, their largest is not the largest of what goes in."""
    x = torch.randn(4, 64, 11, 9)
    net = nn.Sequential(nn.BatchNorm2d(64), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3))
    prepared, _ = converted(net, x, keep_float=())
    packed = quantize.convert(prepared, x, check=False)
    assert isinstance(packed[0], nn.BatchNorm2d)
    assert torch.equal(packed(x), prepared(x))


def test_a_scripted_module_stays():
    x = torch.randn(4, 64, 11, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(nn.ReLU())
    prepared, packed = converted(Blocks(scripted), x, keep_float=())
    assert rows(packed)["conv1"].output == "float"
    torch.testing.assert_close(packed(x), prepared(x))


class ChangesItsInput(Blocks):
    def forward(self, x):
        return super().forward(x.sub_(0.5).mul_(2))


def test_a_model_that_changes_its_input_does_not_change_the_example():
    x = torch.randn(4, 64, 11, 9)
    before = x.clone()
    prepared, packed = converted(ChangesItsInput(nn.ReLU()), x.clone(), keep_float=())
    quantize.convert(prepared, x)
    quantize.summary(prepared, x)
    assert torch.equal(x, before)
    assert torch.equal(packed(x.clone()), prepared(x.clone()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_example_of_another_type_is_taken_as_float32(dtype):
    x = torch.randn(2, 6, 7, 7, dtype=dtype)
    prepared = quantize.prepare(nn.Sequential(nn.Conv2d(6, 9, 3)), "xnor", keep_float=()).to(dtype)
    packed = quantize.convert(prepared, x)
    assert torch.equal(packed(x.float()), prepared.float().eval()(x.float()))


def test_what_is_converted_in_inference_mode_can_be_loaded_into():
    x = torch.randn(2, 6)
    prepared = quantize.prepare(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), keep_float=())
    with torch.inference_mode():
        packed = quantize.convert(prepared, x)
    packed.load_state_dict(quantize.convert(prepared, x).state_dict())


def test_another_default_type():
    """A constant bit has an infinite threshold; what makes it must not have the default type."""
    x = torch.randn(4, 64, 11, 9)
    prepared, expected = converted(Blocks(nn.ReLU()), x, keep_float=())
    torch.set_default_dtype(torch.float64)
    try:
        packed = quantize.convert(prepared, x)
        assert torch.equal(packed(x), expected(x))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("scheme", ["xnor", "bwn", "ternary", "dorefa", "bireal"])
def test_layers_compute_in_their_own_type_where_the_default_is_another(scheme):
    x = torch.randn(6, 32)
    net = nn.Sequential(nn.Linear(32, 48), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 8))
    prepared = quantize.prepare(net, scheme, x)
    expected = [prepared(x), quantize.convert(prepared, x)(x)]
    torch.set_default_dtype(torch.float64)
    try:
        found = [prepared.train()(x), quantize.convert(prepared, x)(x)]
        found[0].sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("inside", [True, False])
def test_a_model_and_an_example_that_were_made_in_inference_mode(inside):
    with torch.inference_mode():
        net, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2)), torch.randn(4, 3)
    with torch.inference_mode(inside):
        assert quantize.plan(net, "xnor", x).binary == ["2"]
    assert quantize.plan(nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))), "xnor", x).binary == ["1"]


class Training(nn.Sequential):
    """What is in it stays in training, whatever the model's mode."""

    def train(self, mode: bool = True):
        return super().train(True)


class NotesShuffle(Shuffle):
    """Writes down what it has seen."""

    def forward(self, x):
        self.mean = x.mean()
        return super().forward(x)


class CountsShuffle(Shuffle):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


class TurnsShuffle(Shuffle):
    """Puts the samples in another order too."""

    def forward(self, x):
        return super().forward(x.flip(0))


class LimitsShuffle(Shuffle):
    def forward(self, x):
        return super().forward(x.clamp(-10, 10))


NO_NEIGHBOURS = {
    "batch norm in training": Training(nn.BatchNorm2d(96)),
    "notes": NotesShuffle(),
    "counts": CountsShuffle(),
    "turns": TurnsShuffle(),
    "limits": LimitsShuffle(),
}


@pytest.mark.parametrize("name", NO_NEIGHBOURS)
def test_what_does_more_than_its_kind_stays(name):
    """No comparison is needed to see it."""
    x = torch.randn(4, 64, 11, 9)
    prepared, _ = converted(Blocks(NO_NEIGHBOURS[name]), x, keep_float=())
    packed = quantize.convert(prepared, x, check=False)
    assert type(packed.between[0]) is type(prepared.between[0])
    torch.testing.assert_close(packed(x), prepared(x))
    kept = ("mean", "seen")
    assert [getattr(packed.between[0], k, None) for k in kept] == [getattr(prepared.between[0], k, None) for k in kept]


def test_what_got_another_forward_pass_of_its_own_stays():
    """An object of its kind, not a class of another."""
    x = torch.randn(4, 64, 11, 9)
    net = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU())
    prepared = quantize.prepare(net, "xnor", x, keep_float=()).eval()
    prepared[1].forward = lambda x: 0.25 - x.square()
    prepared[2].forward = functools.partial(lambda layer, x: 2 * type(layer).forward(layer, x), prepared[2])
    prepared[3].forward = lambda x: x + 1
    packed = quantize.convert(prepared, x, check=False)
    assert [type(packed[i]) for i in (0, 1, 2, 3)] == [quantize.PackedConv2d, nn.ReLU, quantize.BinaryConv2d, nn.ReLU]
    torch.testing.assert_close(packed(x), prepared(x))
