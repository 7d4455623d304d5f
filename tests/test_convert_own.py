"""convert of layers and schemes that a user has written."""

import dataclasses

import pytest
import torch
from converted_models import rows
from torch import nn

import quantize
from quantize import scheme as scheme_module
from quantize.packed.codes.expanded import ExpandedLayer
from quantize.ste import ste_sign


@pytest.fixture(autouse=True)
def own_schemes(monkeypatch):
    """Schemes of this file are forgotten with it."""
    monkeypatch.setattr(scheme_module, "_REGISTRY", {**scheme_module._REGISTRY})


def own_scheme(factor: float = 1.0, scaled: bool = False, by_largest: bool = False) -> quantize.Scheme:
    @dataclasses.dataclass(frozen=True)
    class Own(quantize.Scheme):
        signed_input = True

        def weight(self, filters, layer):
            return quantize.QuantizedWeight(factor * ste_sign(filters))

        def input(self, x, layer):
            return ste_sign(x)

        def output_scale(self, x, layer, *args):
            if by_largest:
                return x.abs().amax()  # there is none of no samples
            return layer.window_mean(x.abs(), *args) if scaled else None

    return quantize.register_scheme("own")(Own)()


LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 9, 3, dilation=2), (2, 6, 8, 7)),
    "reflect": (lambda: nn.Conv2d(6, 9, 3, padding=4, padding_mode="reflect"), (2, 6, 8, 7)),
    "conv1d": (lambda: nn.Conv1d(6, 9, 3), (2, 6, 8)),
    "linear": (lambda: nn.Linear(6, 9), (2, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{"factor": 0.5}, {"scaled": True}, {"by_largest": True}], ids=str)
def test_a_scheme_that_no_kernel_computes(name, options):
    """Weights of +-1/2 without a scale; scales of the output that need an input of the kernel's size, and a sample."""
    build, shape = LAYERS[name]
    x = torch.randn(shape)
    prepared = quantize.prepare(nn.Sequential(build()), own_scheme(**options), x, keep_float=()).eval()
    packed = quantize.convert(prepared, x)
    assert not isinstance(packed[0], quantize.PackedLayer)
    assert max(t.nbytes for t in packed[0].state_dict().values()) < prepared[0].weight.nbytes  # it holds bits
    torch.testing.assert_close(packed(x), prepared(x))


class Shifted(quantize.BinaryConv2d):
    """Adds to its input first."""

    def forward(self, x):
        return super().forward(x + 0.3)


class Named(quantize.BinaryConv2d):
    """A subclass with nothing of its own."""


@pytest.mark.parametrize("scheme", ["xnor", "bwn"])
def test_a_subclass_with_a_forward_of_its_own_stays(scheme):
    x = torch.randn(2, 6, 7, 7)
    net = nn.Sequential(Shifted(6, 9, 3, scheme=scheme)).eval()
    packed = quantize.convert(net, x)
    assert type(packed[0]) is Shifted
    assert rows(packed)["0"].note == "Shifted has a forward of its own; it may use its weight: left as it was"
    assert torch.equal(packed(x), net(x))


@pytest.mark.parametrize(("scheme", "kind"), [("xnor", quantize.PackedConv2d), ("bwn", ExpandedLayer)])
def test_a_subclass_without_one_is_packed(scheme, kind):
    x = torch.randn(2, 6, 7, 7)
    net = nn.Sequential(Named(6, 9, 3, scheme=scheme)).eval()
    packed = quantize.convert(net, x)
    assert type(packed[0]) is kind
    torch.testing.assert_close(packed(x), net(x))


@pytest.mark.parametrize("scheme", ["xnor", "bwn"])
def test_a_converted_model_is_not_prepared_converted_or_restored_again(scheme):
    x = torch.randn(2, 6)
    prepared = quantize.prepare(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3)), scheme, x, keep_float=("last",))
    packed = quantize.convert(prepared, x)
    with pytest.raises(ValueError, match="the model is a converted one, .*prepare the float model"):
        quantize.prepare(packed, "xnor", x, keep_float=())
    with pytest.raises(ValueError, match="nothing to convert: the model is a converted one already"):
        quantize.convert(packed, x)
    with pytest.raises(ValueError, match="holds bits only; restore the model that was converted"):
        quantize.restore(packed)


def test_a_layer_with_a_weight_that_a_hook_computes_is_copied_as_it_is():
    """torch.nn.utils.weight_norm sets tensors that torch refuses to copy."""
    x = torch.randn(2, 8, 9)
    with pytest.warns(FutureWarning, match="weight_norm"):
        normed = torch.nn.utils.weight_norm(nn.Conv1d(8, 8, 3))
    net = nn.Sequential(nn.Conv1d(8, 8, 3), normed, nn.Conv1d(8, 8, 3), nn.Conv1d(8, 2, 1)).eval()
    expected = net(x)
    prepared = quantize.prepare(net, "xnor", x)
    assert prepared[1].weight is not net[1].weight
    torch.testing.assert_close(quantize.convert(prepared, x)(x), prepared.eval()(x))
    assert quantize.summary(prepared, x).binary_macs == 8 * 8 * 3 * 3
    assert torch.equal(quantize.restore(prepared)(x), expected)
    with torch.no_grad():
        net[1].weight_g.mul_(2)
    assert not torch.equal(net(x), expected)  # the hook of the one does not read the other's parameters
    assert torch.equal(quantize.restore(prepared)(x), expected)
