"""observe(): order, first and last layers, input statistics, and a model that is left as it was."""

import dataclasses
import weakref

import pytest
import torch
from small_models import Backwards
from torch import nn

import quantize
from quantize.binary.quantized_layer import channel_dim
from quantize.calling import run
from quantize.planning.observe import observe


def observation(model: nn.Module, example_input):
    """The observation with names in place of layers."""
    names = {m: n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    seen = observe(model, names, example_input, channel_dim)
    return seen, [names[m] for m in seen.ran], {names[m] for m in seen.first}, {names[m] for m in seen.last}


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)
        self.joint = nn.Linear(4, 4)
        self.classes, self.boxes = nn.Linear(4, 2), nn.Linear(4, 4)

    def forward(self, a, b=None):
        h = self.joint(self.left(a) + self.right(b))
        return {"classes": self.classes(h).softmax(-1), "boxes": (self.boxes(h), None)}


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.other, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.shared(self.other(self.shared(x)))


class TiedHead(nn.Module):
    """Token ids in, and an embedding's weight in the head: no float input that autograd could follow."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.inner, self.more, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.more(self.inner(self.embedding(ids))))


def test_execution_order():
    _, ran, first, last = observation(Backwards(), torch.randn(5, 3))
    assert ran == ["stem", "middle", "head"]
    assert first == {"stem"}
    assert last == {"head"}


@pytest.mark.parametrize(
    "example_input",
    [
        (torch.randn(2, 3), torch.randn(2, 5)),
        [torch.randn(2, 3), torch.randn(2, 5)],
        {"a": torch.randn(2, 3), "b": torch.randn(2, 5)},
    ],
    ids=["tuple", "list", "dict"],
)
def test_every_input_has_a_first_layer_and_every_output_a_last(example_input):
    _, _, first, last = observation(TwoInputs(), example_input)
    assert first == {"left", "right"}
    assert last == {"classes", "boxes"}


def test_a_reused_layer_counts_where_it_ran_last():
    seen, ran, first, last = observation(Reused(), torch.randn(5, 4))
    assert ran == ["other", "shared"]
    assert first == {"shared"}
    assert last == {"shared"}
    assert [seen.calls[layer] for layer in seen.ran] == [1, 2]


def test_a_reused_layer_has_a_threshold_where_one_of_its_inputs_needs_it():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.shared, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            first = self.shared(self.stem(x))
            second = self.shared(first.relu())
            return self.head(self.shared(second))

    model, x = Recurrent(), torch.randn(64, 4)
    row = quantize.plan(model, "xnor", x)["shared"]
    assert row.threshold == "learned from the input's mean"
    behind_relu = model.shared(model.stem(x)).relu()
    torch.testing.assert_close(row.start, behind_relu.mean(0).detach())


def test_the_heads_of_a_dataclass_are_outputs():
    @dataclasses.dataclass
    class Answer:
        classes: torch.Tensor
        more: dict

    class Heads(TwoInputs):
        def forward(self, a, b=None):
            found = super().forward(a, b)
            return Answer(found["classes"], {"boxes": found["boxes"], "kind": Answer})

    _, _, _, last = observation(Heads(), (torch.randn(2, 3), torch.randn(2, 5)))
    assert last == {"classes", "boxes"}


def test_activations_are_not_kept_for_a_backward_pass():
    kept = []

    class Watched(Backwards):
        def forward(self, x):
            x = self.stem(x).exp()  # its result is its derivative
            seen = weakref.ref(x)
            x = self.head(self.middle(x))
            kept.append(seen() is not None)
            return x

    model = Watched()
    observation(model, torch.randn(5, 3))
    assert kept == [False]
    model(torch.randn(5, 3))
    assert kept == [False, True]


def test_token_ids_fall_back_to_the_order_of_execution():
    _, ran, first, last = observation(TiedHead(), torch.randint(7, (2, 5)))
    assert ran == ["inner", "more", "head"]
    assert first == {"inner"}
    assert last == {"head"}


def test_outputs_without_gradient_fall_back_to_the_order_of_execution():
    class Detector(Backwards):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    _, _, first, last = observation(Detector(), torch.randn(5, 3))
    assert first == {"stem"}
    assert last == {"head"}


def test_parallel_branches_from_the_input_are_all_first():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.out = nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.out(self.wide(x.relu()) + self.narrow(x.mul_(2)))

    x = torch.randn(2, 3, 6, 6)
    before = x.clone()
    _, _, first, last = observation(Branches(), x)
    assert first == {"wide", "narrow"}
    assert last == {"out"}
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_frozen_layers_are_followed_and_stay_frozen():
    model = Backwards()
    model.stem.requires_grad_(False)
    model.head.requires_grad_(False)
    _, _, first, last = observation(model, torch.randn(5, 3))
    assert first == {"stem"}
    assert last == {"head"}
    assert [p.requires_grad for p in model.stem.parameters()] == [False, False]
    assert [p.requires_grad for p in model.middle.parameters()] == [True, True]


@pytest.mark.parametrize("no_grad", [True, False])
def test_it_works_without_gradients_outside(no_grad):
    with torch.set_grad_enabled(not no_grad):
        _, _, first, last = observation(Backwards(), torch.randn(5, 3))
    assert (first, last) == ({"stem"}, {"head"})


class Stateful(nn.Module):
    """Everything that a forward pass may change."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.out = nn.Conv2d(4, 2, 3)
        self.register_buffer("counter", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("cache", None)

    def forward(self, x):
        self.counter += 1
        self.replaced = self.replaced + 1
        self.cache = x.detach().mean()
        noise = torch.rand(())
        return self.out(self.drop(self.bn(self.conv(x + noise)).relu()))


def test_the_model_and_the_random_stream_are_left_as_they_were():
    model = Stateful()
    model.bn.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    model.out.bias.requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    buffers = {name: id(b) for name, b in model.named_buffers()}
    modes = [m.training for m in model.modules()]
    stream = torch.get_rng_state()
    observation(model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), stream)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    assert {name: id(b) for name, b in model.named_buffers()} == buffers
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["conv.weight"]
    assert not model.out.bias.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_model_is_left_as_it_was_after_an_error_too():
    model = Stateful()
    modes = [m.training for m in model.modules()]
    stream = torch.get_rng_state()
    with pytest.raises(ValueError, match="the model does not run on example_input"):
        observation(model, torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [m.training for m in model.modules()] == modes
    assert model.counter == model.replaced == 0
    assert torch.equal(torch.get_rng_state(), stream)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_batch_norm_shows_the_signs_of_training():
    """After ReLU and an untrained batch norm in evaluation nothing would be negative."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3))
    x = torch.randn(8, 3, 9, 9)
    seen, *_ = observation(model.eval(), x)
    signs = torch.nn.functional.batch_norm(model[:2](x), None, None, training=True) < 0
    assert 0.1 < signs.float().mean() < 0.9
    count, negative, total = seen.input_sums[model[3]]
    assert count.tolist() == [8 * 49] * 4
    assert negative.tolist() == signs.sum((0, 2, 3)).tolist()
    torch.testing.assert_close(total / count, torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.input_sums[model[0]][2], x.sum((0, 2, 3)))


def test_one_sample_with_one_pixel_uses_the_running_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    _, ran, *_ = observation(model, torch.randn(1, 3, 1, 1))
    assert ran == ["0", "2"]


@pytest.mark.parametrize(("layer", "shape"), [(nn.Linear(4, 3), (4,)), (nn.Conv2d(3, 4, 3), (3, 5, 5))])
def test_unbatched_example(layer, shape):
    x = torch.randn(shape)
    seen, *_ = observation(nn.Sequential(layer), x)
    count, negative, total = seen.input_sums[layer]
    assert count.tolist() == [x.numel() / shape[0]] * shape[0]
    assert negative.tolist() == (x < 0).reshape(shape[0], -1).sum(1).tolist()
    torch.testing.assert_close(total, x.reshape(shape[0], -1).sum(1))


@pytest.mark.parametrize(
    ("example_input", "described"),
    [
        (torch.randn(2, 7), r"of shape \(2, 7\)"),
        ((torch.randn(2, 3), torch.randn(2, 9)), r"of shape \(2, 3\), \(2, 9\)"),
        ({"x": torch.randn(2, 3), "wrong": 1}, r"of shape \(2, 3\), int"),
        ("an image", "of shape str: .*; example_input must hold tensors"),
        ((2, 7), "of shape int, int: .*; example_input must hold tensors"),
    ],
)
def test_an_example_that_does_not_fit_is_described(example_input, described):
    with pytest.raises(ValueError, match="the model does not run on example_input, " + described):
        observation(Backwards(), example_input)


def test_an_error_without_words_is_named():
    class Silent(nn.Module):
        def forward(self, x):
            raise AssertionError

    with pytest.raises(ValueError, match=r"of shape \(1, 3\): AssertionError$"):
        run(Silent(), torch.randn(1, 3))


@pytest.mark.parametrize("error", [AssertionError, KeyError, AttributeError, ZeroDivisionError])
def test_whatever_the_model_raises_is_explained(error):
    class Strict(nn.Module):
        def forward(self, x):
            raise error("image size")

    with pytest.raises(ValueError, match=r"does not run on example_input, of shape \(1, 3\): .*image size") as caught:
        run(Strict(), torch.randn(1, 3))
    assert isinstance(caught.value.__cause__, error)
