"""tools/draw_schemes: the curves are the schemes' formulas; the picture has a row for each."""

import matplotlib.image
import torch

import quantize
from tools import draw_schemes


def test_curves_are_the_formulas():
    x = draw_schemes.SPREAD
    sign = torch.where(x >= 0, 1.0, -1.0)
    value, gradient = draw_schemes.input_curve("bireal")
    assert torch.equal(value, sign)
    torch.testing.assert_close(gradient, (2 - 2 * x.abs()).clamp_min(0))
    _, gradient = draw_schemes.input_curve("irnet", 0.0)  # t = 0.1, k = 10
    torch.testing.assert_close(gradient, 1 - torch.tanh(0.1 * x) ** 2)
    value, gradient = draw_schemes.weight_curve("ternary")
    kept = x.abs() > 0.7 * x.abs().mean()
    torch.testing.assert_close(value, sign * kept * x.abs()[kept].mean())
    torch.testing.assert_close(gradient, torch.ones_like(x))
    # The product rule, of one weight by itself: sign(W_i)^2 / n + alpha where |W_i| <= 1.
    value, gradient = draw_schemes.weight_curve("bwn")
    alpha = x.abs().mean()
    torch.testing.assert_close(value, alpha * sign)
    torch.testing.assert_close(gradient, 1 / len(x) + alpha * (x.abs() <= 1))


def test_one_legend_names_every_line_and_covers_none():
    figure = draw_schemes.draw()
    figure.draw_without_rendering()
    (legend,) = figure.legends
    named = {text.get_text(): line.get_color() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    lines = [line for axis in figure.axes for line in axis.lines]
    assert {line.get_label(): line.get_color() for line in lines} == named
    assert len(set(named.values())) == len(named) == 5
    assert not any(legend.get_window_extent().overlaps(axis.get_window_extent()) for axis in figure.axes)


def test_a_picture_with_a_row_for_each_scheme(tmp_path, capsys):
    assert draw_schemes.main(["--out", str(tmp_path / "new" / "schemes.png")]) == 0
    picture = matplotlib.image.imread(tmp_path / "new" / "schemes.png")
    assert picture.shape[0] > 100 * len(quantize.list_schemes())
    assert picture.std() > 0.1
    assert draw_schemes.main(["--out", str(tmp_path / "schemes.gif")]) == 2
    assert "is not a .png file" in capsys.readouterr().err
