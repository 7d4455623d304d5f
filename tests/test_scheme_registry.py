"""Schemes by name: parsing, errors, and a scheme of the user's own."""

import dataclasses

import pytest
import torch
from torch import nn

import quantize
from quantize import scheme as registry
from quantize.ste import ste_sign


@pytest.fixture
def _clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_every_built_in_scheme_is_registered_under_its_file_name():
    for name in quantize.list_schemes():
        cls = type(quantize.get_scheme(name))
        assert cls.name == name
        assert cls.__module__ == f"quantize.schemes.{name}"
        assert getattr(quantize.schemes, cls.__name__) is cls
    assert quantize.list_schemes() == sorted(quantize.list_schemes())


def test_every_scheme_documents_its_formula_and_options():
    for name in quantize.list_schemes():
        cls = type(quantize.get_scheme(name))
        assert "``" in cls.__doc__
        for option in dataclasses.fields(cls):
            assert f"{option.name}:" in cls.__doc__


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xnor", quantize.schemes.XNOR()),
        ("xnor:", quantize.schemes.XNOR()),
        ("xnor:input_scale=true", quantize.schemes.XNOR(input_scale=True)),
        ("xnor:input_scale=YES, center = 0", quantize.schemes.XNOR(input_scale=True, center=False)),
        ("dorefa:w_bits=1,a_bits=4", quantize.schemes.DoReFa(w_bits=1, a_bits=4)),
        (quantize.schemes.BNN, quantize.schemes.BNN()),
        (quantize.schemes.DoReFa(a_bits=8), quantize.schemes.DoReFa(a_bits=8)),
    ],
)
def test_get_scheme(text, expected):
    assert quantize.get_scheme(text) == expected


@pytest.mark.parametrize("text", ["xnor", "xnor:center=False", "dorefa:w_bits=2,a_bits=3", "binaryconnect"])
def test_a_scheme_prints_as_what_it_was_made_from(text):
    assert str(quantize.get_scheme(text)) == text
    assert quantize.get_scheme(str(quantize.get_scheme(text))) == quantize.get_scheme(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xnorr", "unknown scheme 'xnorr': did you mean 'xnor'.* valid: binaryconnect, .*xnor"),
        ("", "unknown scheme '': valid: .*the guide 'adding' says how"),
        ("Xnor", "unknown scheme 'Xnor': did you mean 'xnor'"),
        ("xnor:scale=true", "scheme 'xnor' has no option 'scale': did you mean 'input_scale'.*valid: center, input_sc"),
        ("bnn:x=1", "scheme 'bnn' has no option 'x': valid: none"),
        ("xnor:center", "option 'center' of scheme 'xnor' has no value; write center=VALUE"),
        ("xnor:center=maybe", "option 'center' of scheme 'xnor' is 'maybe'; it must be true or false"),
        ("dorefa:w_bits=two", "option 'w_bits' of scheme 'dorefa' is 'two'; it must be of type int"),
        ("dorefa:w_bits=0", "option 'w_bits' of scheme 'dorefa' is 0; it must be 1 to 8, or 32 for float"),
        ("dorefa:a_bits=16", "option 'a_bits' of scheme 'dorefa' is 16; it must be 1 to 8"),
    ],
)
def test_bad_scheme(text, message):
    with pytest.raises(ValueError, match=message):
        quantize.get_scheme(text)


@pytest.mark.parametrize("value", [None, 3, nn.Linear, ["xnor"]])
def test_a_scheme_of_another_type_is_a_type_error(value):
    with pytest.raises(TypeError, match="scheme must be a name or a Scheme instance, got "):
        quantize.get_scheme(value)


def test_schemes_are_immutable_values():
    scheme = quantize.schemes.XNOR()
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme.center = False
    assert len({scheme, quantize.schemes.XNOR()}) == 1


@pytest.mark.usefixtures("_clean_registry")
def test_a_user_registers_a_scheme_and_uses_it_by_name(tmp_path):
    @quantize.register_scheme("halved")
    @dataclasses.dataclass(frozen=True)
    class Halved(quantize.Scheme):
        """``y = sign(x) * factor sign(W)``."""

        factor: float = 0.5
        signed_input = True

        def weight(self, filters, layer):
            return quantize.QuantizedWeight(ste_sign(filters) * self.factor)

        def input(self, x, layer):
            return ste_sign(x)

    assert "halved" in quantize.list_schemes()
    x = torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 2))
    prepared = quantize.prepare(model, "halved:factor=0.25", x)
    expected = torch.where(model[0](x) >= 0, 1.0, -1.0) @ torch.where(model[1].weight >= 0, 0.25, -0.25).T
    torch.testing.assert_close(prepared[:2](x), expected + model[1].bias)
    assert str(prepared[1].scheme) == "halved:factor=0.25"
    assert "halved:factor=0.25" in str(quantize.plan(model, Halved(0.25), x))
    prepared(x).sum().backward()
    assert prepared[1].weight.grad.abs().sum() > 0
    assert quantize.summary(prepared, x).binary_macs == 5 * 4
    torch.save(prepared.state_dict(), tmp_path / "halved.pt")
    model.load_state_dict(torch.load(tmp_path / "halved.pt", weights_only=True))
    assert type(quantize.restore(prepared)[1]) is nn.Linear


@pytest.mark.usefixtures("_clean_registry")
def test_a_taken_or_bad_name_is_an_error():
    class Other(quantize.Scheme):
        pass

    with pytest.raises(ValueError, match=r"scheme name 'xnor' is taken by quantize\.schemes\.xnor\.XNOR; choose anoth"):
        quantize.register_scheme("xnor")(Other)
    for bad in ("Xnor", "my-scheme", "a:b", "2bits", ""):
        with pytest.raises(ValueError, match="is not a lower-case identifier"):
            quantize.register_scheme(bad)


@pytest.mark.usefixtures("_clean_registry")
def test_the_same_class_may_be_registered_again():
    quantize.register_scheme("xnor")(quantize.schemes.XNOR)
    assert type(quantize.get_scheme("xnor")) is quantize.schemes.XNOR


def test_an_option_of_the_wrong_type_is_refused():
    with pytest.raises(ValueError, match="option 'input_scale' of scheme 'xnor' is 'yes'; it must be of type bool"):
        quantize.schemes.XNOR(input_scale="yes")
    with pytest.raises(ValueError, match="option 'w_bits' of scheme 'dorefa' is True; it must be of type int"):
        quantize.schemes.DoReFa(w_bits=True)


def test_a_scheme_without_a_name_is_refused():
    class Nameless(quantize.schemes.BNN):
        """Derived, not registered: a checkpoint could not name it."""

    with pytest.raises(ValueError, match="Nameless has no name; decorate it"):
        quantize.get_scheme(Nameless())
