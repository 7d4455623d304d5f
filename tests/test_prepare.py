"""prepare(), apply_plan() and restore(): what survives, what is shared, what stays untouched."""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import quantize

pytestmark = pytest.mark.core

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class ScaledConv(nn.Conv2d):
    """A subclass that adds a buffer and an attribute, and computes like its parent."""

    def __init__(self, *args, note="", **kwargs):
        super().__init__(*args, **kwargs)
        self.note = note
        self.register_buffer("calls", torch.zeros(()))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        ScaledConv(8, 8, 3, padding=1, groups=2, note="kept"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 36, 10),
    )


def train(model: nn.Module, steps: int = 3) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    quantize.set_progress(model, 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), torch.arange(4)).backward()
        optimizer.step()
    return model


@pytest.fixture(params=quantize.list_schemes())
def scheme(request) -> str:
    return request.param


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_state(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_the_original_is_untouched(scheme):
    model = network()
    before, modules = snapshot(model), [(type(m), m.training) for m in model.modules()]
    train(quantize.prepare(model, scheme, X))
    assert_same_state(model.state_dict(), before)
    assert [(type(m), m.training) for m in model.modules()] == modules


def test_a_float_state_dict_loads_strictly(scheme):
    prepared, trained = quantize.prepare(network(), scheme, X), network()
    prepared.load_state_dict(trained.state_dict(), strict=True)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(prepared.state_dict()[name], tensor)
    assert prepared.state_dict().keys() >= trained.state_dict().keys()


def test_a_missing_float_key_is_still_an_error(scheme):
    state = network().state_dict()
    del state["5.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "5.weight"'):
        quantize.prepare(network(), scheme, X).load_state_dict(state)


def test_a_trained_state_dict_loads_with_weights_only(scheme):
    trained = train(quantize.prepare(network(), scheme, X)).eval()
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = quantize.prepare(network(), scheme, X).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(X), trained(X))


def test_a_saved_threshold_loads_where_none_is_expected():
    trained = train(quantize.prepare(network(), "xnor"))
    assert trained[5].threshold is not None
    signed = quantize.prepare(network().eval(), "xnor", X)
    signed[2].threshold = None
    signed.load_state_dict(trained.state_dict())
    assert torch.equal(signed[2].threshold, trained[2].threshold)


def test_a_pending_threshold_is_not_saved_and_a_loaded_one_is_settled():
    pending = quantize.prepare(network(), "xnor")
    assert pending.state_dict().keys() == network().state_dict().keys()
    trained = train(copy.deepcopy(pending))
    assert {"2.threshold", "5.threshold"} <= trained.state_dict().keys()
    pending.load_state_dict(trained.state_dict())
    assert not pending[5].threshold_pending
    assert torch.equal(pending.eval()(X), trained.eval()(X))


def test_a_float_state_dict_leaves_a_threshold_pending():
    pending = quantize.prepare(network(), "xnor")
    pending.load_state_dict(network().state_dict())
    assert pending[5].threshold_pending


def test_restore_gives_the_float_model_with_the_trained_weights(scheme):
    trained = train(quantize.prepare(network(), scheme, X))
    before = snapshot(trained)
    restored = quantize.restore(trained)
    assert [type(m) for m in restored] == [type(m) for m in network()]
    assert restored[2].note == "kept"
    assert_same_state(snapshot(trained), before)
    expected = network()
    expected.load_state_dict({k: v for k, v in before.items() if k in expected.state_dict()}, strict=True)
    assert torch.equal(restored.eval()(X), expected.eval()(X))
    assert vars(restored[5]).keys() == vars(network()[5]).keys()
    assert repr(restored) == repr(network())


def test_a_restored_model_can_be_prepared_again(scheme):
    prepared = quantize.prepare(network(), scheme, X).eval()
    again = quantize.prepare(quantize.restore(prepared), scheme, X).eval()
    assert torch.equal(again(X), prepared(X))


def test_restore_of_a_float_model_is_an_error():
    with pytest.raises(ValueError, match="nothing to restore: no layer of the model is binary"):
        quantize.restore(network())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_computes_the_same_and_is_independent(scheme, copied):
    model = train(quantize.prepare(network(), scheme, X))
    twin = copied(model)
    assert torch.equal(twin(X), model(X))
    before = snapshot(model)
    train(twin)
    assert_same_state(model.state_dict(), before)
    assert [type(m) for m in quantize.restore(twin)] == [type(m) for m in network()]


def test_a_pending_threshold_survives_a_copy():
    pending = copy.deepcopy(quantize.prepare(network(), "xnor"))
    assert pending[5].threshold_pending
    train(pending, steps=1)
    assert pending[5].threshold.min() > 0


def test_inplace_keeps_every_parameter(scheme):
    model = network()
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert quantize.prepare(model, scheme, X, inplace=True) is model
    now = dict(model.named_parameters())
    assert all(now[name] is p for name, p in parameters.items())
    quantize.set_progress(model, 0.5)
    F.cross_entropy(model(X), torch.arange(4)).backward()
    optimizer.step()
    assert quantize.restore(model, inplace=True) is model
    assert {name: id(p) for name, p in model.named_parameters()} == {n: id(p) for n, p in parameters.items()}


def test_hooks_survive():
    model, calls = network(), []
    conv = model[5]
    conv.register_forward_pre_hook(lambda *_: calls.append("pre"))
    conv.register_forward_hook(lambda *_: calls.append("forward"))
    conv.register_full_backward_hook(lambda *_: calls.append("backward"))
    conv.register_state_dict_pre_hook(lambda *_: calls.append("state"))
    conv.weight.register_hook(lambda _: calls.append("gradient"))
    model = quantize.prepare(model, "xnor", inplace=True)
    model(X).sum().backward()
    model.state_dict()
    assert sorted(calls) == ["backward", "forward", "gradient", "pre", "state"]
    quantize.restore(model, inplace=True)(X)
    assert calls[-2:] == ["pre", "forward"]


@pytest.mark.parametrize("example", [None, X], ids=["no_example", "example"])
def test_modes_and_frozen_parameters_survive(example):
    model = network()
    model[3].eval()
    model[5].eval()
    model[2].weight.requires_grad_(False)
    model[7].requires_grad_(False)
    modes = [m.training for m in model.modules()]
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    for prepared in (quantize.prepare(model, "xnor", example), model):
        assert [m.training for m in prepared.modules()] == modes
        assert {n: p.requires_grad for n, p in prepared.named_parameters() if n in flags} == flags
    restored = quantize.restore(quantize.prepare(model, "xnor", example))
    assert {n: p.requires_grad for n, p in restored.named_parameters()} == flags


class Shared(nn.Module):
    """One module under two names, and two modules with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.a = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b = self.a
        self.c, self.d = nn.Linear(6, 6), nn.Linear(6, 6)
        self.d.weight = self.c.weight
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.d(self.c(self.b(self.a(self.first(x))))))


@pytest.mark.parametrize("example", [None, torch.randn(5, 6)], ids=["no_example", "example"])
def test_shared_modules_and_tied_weights_stay_so(example):
    model = Shared()
    for changed in (quantize.prepare(model, "xnor", example), quantize.restore(quantize.prepare(model, "xnor"))):
        assert changed.a is changed.b
        assert changed.d.weight is changed.c.weight
        assert changed.d.bias is not changed.c.bias
    prepared = quantize.prepare(model, "xnor", example)
    assert isinstance(prepared.a, quantize.BinaryLinear)
    assert isinstance(prepared.c, quantize.BinaryLinear)
    prepared(torch.randn(5, 6)).sum().backward()
    assert prepared.c.weight.grad is prepared.d.weight.grad


def test_a_subclass_without_a_forward_of_its_own_converts():
    prepared = quantize.prepare(network(), "xnor", X)
    assert type(prepared[2]) is quantize.BinaryConv2d
    assert prepared[2].note == "kept"
    assert "2.calls" in prepared.state_dict()


def test_attributes_set_on_a_module_survive():
    model = network()
    model[5].tag = "mine"
    assert quantize.prepare(model, "xnor")[5].tag == "mine"
    assert quantize.restore(quantize.prepare(model, "xnor"))[5].tag == "mine"


def test_a_model_that_cannot_be_copied_is_changed_itself_or_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"the model cannot be copied \(.*lock.*\); change it itself: inplace=True"):
        quantize.prepare(model, "xnor")
    assert quantize.prepare(model, "xnor", inplace=True) is model
    with pytest.raises(ValueError, match="cannot be copied"):
        quantize.restore(model)


def test_the_model_may_be_one_layer():
    layer = nn.Linear(6, 4)
    prepared = quantize.prepare(layer, "bnn", torch.randn(2, 6), keep_float=())
    assert isinstance(prepared, quantize.BinaryLinear)
    assert type(layer) is nn.Linear
    assert type(quantize.restore(prepared)) is nn.Linear


def test_a_nonnegative_input_starts_the_threshold_at_its_channel_means():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3))
    prepared = quantize.prepare(model, "xnor", X)
    torch.testing.assert_close(prepared[2].threshold.detach(), model[:2](X).mean((0, 2, 3)).detach())
    assert prepared[2].threshold.requires_grad
    assert not prepared[2].threshold_pending


def test_schemes_can_be_mixed():
    overrides = {"2": quantize.schemes.XNOR(center=False), nn.Linear: "bwn"}
    prepared = quantize.prepare(network(), "dorefa:a_bits=4", X, keep_float=("first",), overrides=overrides)
    schemes = {name: str(m.scheme) for name, m in prepared.named_modules() if isinstance(m, quantize.BinaryLayer)}
    assert schemes == {"2": "xnor:center=False", "5": "dorefa:a_bits=4", "7": "bwn"}
    assert torch.isfinite(prepared(X)).all()
