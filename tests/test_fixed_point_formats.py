"""tools/fixed_arithmetic/fixed_formats.py: against exact rational arithmetic; the default formats; settings files."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tools.fixed_arithmetic.fixed_formats import Format, Formats, integer_bits, read_settings

TIES = [n + 0.5 for n in range(-4, 4)]  # in steps


def in_integers(value: float, total: int, integer: int) -> tuple[Fraction, bool]:
    """``clip(round(x 2^(T-I)), -(2^T - 1), 2^T - 1) / 2^(T-I)`` in whole numbers, and whether it was clipped."""
    steps = Fraction(2) ** (total - integer)
    rounded, limit = round(Fraction(value) * steps), 2**total - 1  # a tie goes to the even integer
    return min(max(rounded, -limit), limit) / steps, abs(rounded) > limit


bits = st.tuples(st.integers(1, 24), st.integers(0, 24))
values = st.lists(st.floats(-(2.0**25), 2.0**25, width=32), min_size=1, max_size=30)


@given(bits, values)
def test_rounding_equals_integer_arithmetic(form, floats):
    total, integer = form
    limit = 2**total - 1
    floats += [steps * 2.0 ** (integer - total) for steps in (*TIES, limit, -limit, limit + 1, -limit - 1)]
    rounded, clipped = Format(total, integer).round(torch.tensor(floats))
    expected = [in_integers(value, total, integer) for value in floats]
    assert [Fraction(value) for value in rounded.tolist()] == [value for value, _ in expected]
    assert clipped.item() == sum(was_clipped for _, was_clipped in expected)


def test_rounding_leaves_its_input_alone():
    x = torch.tensor([0.3, 5.0])
    Format(3, 1).round(x)
    assert x.tolist() == torch.tensor([0.3, 5.0]).tolist()


@pytest.mark.parametrize(
    ("parameters", "bits"),
    [
        ([0.0, 0.0], 0),
        ([0.2, -0.3], 0),
        ([1.0, 0.1], 0),
        ([-1.0], 0),
        ([1.0000001], 1),
        ([2.0], 1),
        ([-2.5, 1], 2),
        ([4.0], 2),
        ([1000.0], 10),
    ],
)
def test_the_integer_bits_of_parameters_hold_the_largest(parameters, bits):
    assert integer_bits(torch.tensor(parameters)) == bits


def test_the_default_formats():
    formats = Formats()
    found = {kind: formats.of_output("any", kind) for kind in ("image", "conv", "norm", "linear")}
    expected = {"image": (7, 0), "conv": (15, 8), "norm": (15, 3), "linear": (15, 10)}
    assert found == {kind: Format(*form) for kind, form in expected.items()}
    assert formats.of_parameter("any", torch.tensor([0.3, -2.7])) == Format(15, 2)


def test_a_name_comes_before_the_kind_and_total_bits_spare_image_and_names():
    formats = Formats(
        9, {"image": 1, "conv": 2, "norm": 3, "linear": 4}, {"fc": Format(20, 17), "fc.bias": Format(5, 1)}
    )
    assert formats.of_output("fc", "linear") == Format(20, 17)
    assert formats.of_output("fc2", "linear") == Format(9, 4)
    assert formats.of_output("image", "image") == Format(7, 1)
    assert formats.of_parameter("fc.bias", torch.tensor([9.0])) == Format(5, 1)
    assert formats.of_parameter("fc2.bias", torch.tensor([9.0])) == Format(9, 4)


@pytest.mark.parametrize(
    ("total", "integer", "message"),
    [(0, 0, "0 total bits; give 1 to 24"), (25, 0, "25 total bits"), (5, -1, "-1 integer bits; give 0 to 24")],
)
def test_bits_out_of_range(total, integer, message):
    with pytest.raises(ValueError, match=message):
        Format(total, integer)


def test_integer_bits_of_a_kind_out_of_range():
    with pytest.raises(ValueError, match="30 integer bits; give 0 to 24"):
        Formats(integer_bits={"image": 0, "conv": 30, "norm": 3, "linear": 10})


def test_settings(tmp_path):
    file = tmp_path / "bits.txt"
    file.write_text("# name T I\n\nfc 20 17  # logits\n  layers.1.weight  8 0\n")
    assert read_settings(file) == {"fc": Format(20, 17), "layers.1.weight": Format(8, 0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fc 20", "line 1 of .*bits.txt' is 'fc 20'; it must be NAME T I"),
        ("\nfc 20 17 3", "line 2 .* must be NAME T I"),
        ("fc twenty 17", "line 1 .* must be NAME T I"),
        ("fc 20 -1", "line 1 .* must be NAME T I"),
        ("fc 33 17", "line 1 .* a format cannot have 33 total bits; give 1 to 24"),
        ("fc 20 17\nfc 20 16", "line 2 .* names 'fc' a second time"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, text, message):
    file = tmp_path / "bits.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_settings(file)


def test_a_settings_file_that_is_none_is_named_with_what_it_must_be(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02\xff")
    for name, reason in (("none.txt", "No such file"), (".", "Is a directory"), ("weights.pt", "it is no text")):
        with pytest.raises(ValueError, match=f"cannot read the formats in .*{reason}.*; give a text file of lines"):
            read_settings(tmp_path / name)
