"""plan, prepare, summary, convert and export run a model and leave no trace in it."""

import copy
import functools
import pickle
import random
import threading
from collections import Counter, deque

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

import quantize

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))


class Diary(nn.Module):
    """Keeps what it has computed, counts, updates its tensors and draws random numbers in its forward pass."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.words = nn.Embedding(3, 4, max_norm=0.1)  # scales its weights when they are used
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("mean", torch.zeros(4))
        self.plain, self.numbers = torch.zeros(4), np.zeros(4)
        self.history, self.counts, self.seen, self.recent = [], Counter(), {"shapes": set()}, deque(maxlen=2)
        self.steps, self.last = 0, None

    def forward(self, x):
        y = self.b(self.a(x + random.random() + np.random.rand() + torch.rand(()))) + self.words.weight[0]
        y = y + self.words(torch.zeros(len(x), dtype=torch.long)) * self.frozen
        self.mean += y.detach().mean(0)
        self.plain += 1
        self.numbers += 1
        self.history.append(y)
        self.counts["calls"] += 1
        self.seen["shapes"].add(tuple(x.shape))
        self.recent.append(y)
        self.steps, self.last = self.steps + 1, y
        return self.c(y)


class Cached(nn.Module):
    """Keeps features, a tensor with a history, where a copy has to find them."""

    def __init__(self, keep):
        super().__init__()
        self.a, self.b, self.c, self.keep = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), keep

    def forward(self, x):
        y = self.b(self.a(x))
        self.kept = self.keep(y)
        return self.c(y)


def attributes(model: nn.Module) -> bytes:
    """All that the modules of ``model`` consist of, but for a lock."""
    found = {name: dict(vars(module)) for name, module in model.named_modules()}
    found[""].pop("lock", None)
    return pickle.dumps(found)


def random_states() -> list:
    return [torch.get_rng_state().tolist(), random.getstate(), [str(part) for part in np.random.get_state()]]


def summarize(model, _path):
    quantize.summary(model, X)


def convert(model, _path):
    quantize.convert(model, X)


def export(model, path):
    quantize.export_onnx(model, path / "net.onnx", X, check=False)


@pytest.mark.parametrize("lock", [False, True], ids=["copied", "put_back"])
@pytest.mark.parametrize("error", [False, True], ids=["runs", "fails"])
def test_a_plan_changes_nothing(lock, error):
    model = Diary()
    if lock:
        model.lock = threading.Lock()
    optimizer_sees = [id(p) for p in model.parameters()]
    before, stream, history = attributes(model), random_states(), model.history
    loss = model.a(X).sum()
    if error:
        with pytest.raises(ValueError, match="does not run on example_input"):
            quantize.plan(model, "xnor", (X, X))
        with pytest.raises(ValueError, match="does not run on example_input"):
            quantize.plan(model, "xnor", torch.zeros(5, 4, 3))
    else:
        assert quantize.plan(model, "xnor", X).binary == ["b"]
    assert attributes(model) == before
    assert random_states() == stream
    assert model.history is history
    assert [id(p) for p in model.parameters()] == optimizer_sees
    loss.backward()  # its graph is still up to date


@pytest.mark.parametrize("observe", [summarize, convert])
def test_what_looks_at_a_prepared_model_changes_nothing(observe, tmp_path):
    model = quantize.prepare(Diary(), "xnor", X)
    before, stream = attributes(model), random_states()
    observe(model, tmp_path)
    assert attributes(model) == before
    assert random_states() == stream


def test_an_export_draws_no_random_numbers(tmp_path):
    class Noisy(Cached):
        def forward(self, x):
            return super().forward(x) + 0 * random.random()

    model = quantize.prepare(Noisy(lambda y: None), "xnor", X)
    random.seed(3)
    stream = random_states()
    export(model, tmp_path)
    assert random_states() == stream


KEPT = {
    "attribute": lambda y: y,
    "list": lambda y: [y],
    "dict": lambda y: {y.device: {"features": y}},
    "object": lambda y: functools.partial(print, y),
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])
def test_a_model_that_keeps_features_is_copied(name, ran):
    model = Cached(KEPT[name])
    if ran:
        model(X)
    before = vars(model).get("kept")
    prepared = quantize.prepare(model, "xnor", X)
    assert vars(model).get("kept") is before
    prepared(X).sum().backward()
    assert prepared.b.weight.grad is not None
    assert model.b.weight.grad is None
    copy_again = quantize.restore(prepared)  # after a run of the caller's
    quantize.convert(prepared, X)
    quantize.summary(copy_again, X)


@pytest.mark.parametrize("inplace", [False, True])
def test_levit_and_raft_are_prepared(inplace):
    levit = timm.create_model("levit_128s", pretrained=False)
    raft = torchvision.models.optical_flow.raft_small()
    image = torch.randn(1, 3, 128, 128)
    for model, example in ((levit, torch.randn(1, 3, 224, 224)), (raft, (image, image))):
        prepared = quantize.prepare(model, "xnor", example, inplace=inplace)
        assert (prepared is model) == inplace
        copy.deepcopy(prepared)
        assert any(isinstance(layer, quantize.BinaryLayer) for layer in prepared.modules())


def replaced_forward(model: nn.Module) -> nn.Module:
    model.forward = lambda x: model[2](model[1](model[0](x)))
    return model


def bound_forward(model: nn.Module) -> nn.Module:
    forward = model.forward
    model.forward = functools.partial(lambda scale, x: forward(x) * scale, 1.0)
    return model


@pytest.mark.parametrize("replace", [replaced_forward, bound_forward])
def test_a_function_that_holds_the_model_is_no_copy_of_it(replace):
    model = replace(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))))
    assert quantize.plan(model, "xnor", X).binary == ["1"]
    with pytest.raises(
        ValueError, match=r"\(its function 'forward' holds the model itself\); change it .*inplace=True"
    ):
        quantize.prepare(model, "xnor", X)
    prepared = quantize.prepare(model, "xnor", X, inplace=True)
    assert isinstance(prepared[1], quantize.BinaryLinear)
    with pytest.raises(ValueError, match="its function 'forward' holds the model itself"):
        quantize.summary(prepared, X)


class CallsFunctions(nn.Module):
    """Through functions in a list of its own, or in a dict in it."""

    def __init__(self, in_dict: bool):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        functions = [lambda x: self.a(x), lambda x: self.b(x), lambda x: self.c(x)]
        self.steps = [dict(enumerate(functions))] if in_dict else functions

    def forward(self, x):
        for step in self.steps[0].values() if isinstance(self.steps[0], dict) else self.steps:
            x = step(x)
        return x


class KeepsByHook(nn.Module):
    """Returns what a hook that holds the model has kept."""

    def __init__(self, pre: bool):
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        if pre:
            self.b.register_forward_pre_hook(lambda _, args: setattr(self, "kept", args[0].mean()))
        else:
            self.b.register_forward_hook(lambda _, args, output: setattr(self, "kept", output.mean()))

    def forward(self, x):
        return self.c(self.b(self.a(x))) + self.kept


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("kind", "place"), [(CallsFunctions, "steps"), (KeepsByHook, r"b\._forward_(pre_)?hooks")])
def test_functions_in_lists_and_hooks_that_hold_the_model_are_no_copies(kind, place, first):
    """In a copy they would call, and write to, the model that was copied."""
    model = kind(first)
    said = rf"\(a function in '{place}' holds the model itself\)"
    assert quantize.plan(model, "xnor", X).binary == ["b"]
    with pytest.raises(ValueError, match=said + r"; change it .*inplace=True"):
        quantize.prepare(model, "xnor", X)
    prepared = quantize.prepare(model, "xnor", X, inplace=True)
    assert isinstance(prepared.b, quantize.BinaryLinear)
    with pytest.raises(ValueError, match=said):
        quantize.convert(prepared, X)


def test_a_compiled_model_is_still_copied():
    model = torch.compile(nn.Sequential(*(nn.Linear(4, 4) for _ in range(3))), backend="eager")
    prepared = quantize.prepare(model, "xnor")
    assert torch.equal(prepared.eval()(X), prepared._orig_mod(X))
    assert type(model._orig_mod[1]) is nn.Linear
