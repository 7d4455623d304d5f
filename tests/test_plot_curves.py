"""tools/plot_curves.py: the points of TensorBoard files, and the lines that they become."""

import os

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from tiny_runs import epochs_of, train
from torch.utils.tensorboard import SummaryWriter

from tools import plot_curves
from tools.plot_curves import Curves

pytestmark = pytest.mark.core

TEST, TRAIN = "-", "--"


def write_events(run_dir, tests, first=1, **options):
    """A TensorBoard file: top-1 of testing, that of training 5 points lower, and curves that are not drawn."""
    with SummaryWriter(str(run_dir), **options) as writer:
        for step, value in enumerate(tests, first):
            writer.add_scalar("top1/test", value, step)
            writer.add_scalar("top1/train", value - 5, step)
            writer.add_scalar("loss/test", 0.1, step)
    return run_dir


def call(*argv):
    return plot_curves.main([str(word) for word in argv])


def lines_of(figure):
    """Style, colour and points of each line."""
    return [
        (line.get_linestyle(), to_hex(line.get_color()), list(zip(*line.get_data(), strict=True)))
        for line in figure.axes[0].lines
    ]


def test_the_curves_of_a_run_are_those_of_its_log(tmp_path):
    train(tmp_path / "run")
    curves, epochs = plot_curves.read_curves(tmp_path / "run"), epochs_of(tmp_path / "run")
    for part, points in curves._asdict().items():
        assert points == pytest.approx({entry["epoch"]: entry[part]["top1"] for entry in epochs})


def test_a_run_that_was_cut_and_continued_is_one_curve(tmp_path):
    run = write_events(tmp_path / "run", [10.0, 20.0, 30.0])
    write_events(run, [25.0, 35.0], first=2, purge_step=2, filename_suffix=".later")
    assert plot_curves.read_curves(run) == Curves({1: 5.0, 2: 20.0, 3: 30.0}, {1: 10.0, 2: 25.0, 3: 35.0})


def test_training_is_dashed_testing_solid_and_a_run_has_a_colour():
    runs = {"one": Curves({1: 1.0, 2: 2.0}, {1: 3.0, 2: 4.0}), "two": Curves({1: 5.0, 2: 6.0}, {1: 7.0, 2: 8.0})}
    figure = plot_curves.draw(runs, "a title")
    found = lines_of(figure)
    assert [(style, points) for style, _, points in found] == [
        (TRAIN, [(1, 1.0), (2, 2.0)]), (TEST, [(1, 3.0), (2, 4.0)]),
        (TRAIN, [(1, 5.0), (2, 6.0)]), (TEST, [(1, 7.0), (2, 8.0)]),
    ]  # fmt: skip
    colours = [colour for _, colour, _ in found]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "two", "train", "test"]
    shown = [(to_hex(line.get_color()), line.get_linestyle()) for line in legend.get_lines()]
    assert shown[:2] == [(colours[1], TEST), (colours[3], TEST)]
    assert [style for _, style in shown[2:]] == [TRAIN, TEST]
    assert figure.axes[0].get_title() == "a title"


def test_many_runs_have_as_many_colours_and_one_epoch_can_be_seen():
    found = lines_of(plot_curves.draw({str(i): Curves({1: 1.0}, {1: 2.0}) for i in range(20)}))
    assert len({colour for _, colour, _ in found}) == 20
    axes = plot_curves.draw({"a": Curves({1: 1.0}, {1: 2.0})}).axes[0]
    assert {line.get_marker() for line in axes.lines} == {"o"}


@pytest.mark.parametrize(
    ("letters", "count", "columns"), [(5, 2, 3), (14, 12, 3), (40, 3, 2), (40, 6, 1), (150, 20, 1)]
)
def test_the_legend_is_whole_and_leaves_the_axes_their_height(letters, count, columns):
    name = "nin_gc_xnornet-cifar10-20261121-152646" * 4  # once: the directory that a run gets by itself
    runs = {f"{i:02}{name}"[:letters]: Curves({1: 1.0, 2: 2.0}, {1: 3.0, 2: 4.0}) for i in range(count)}
    figure = plot_curves.draw(runs)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    left, bottom, right, top = legend.get_window_extent().extents
    axes = figure.axes[0].get_window_extent()
    assert left >= 0
    assert bottom >= 0
    assert right <= figure.bbox.width
    assert top < axes.y0
    assert axes.height > 2.5 * figure.dpi
    assert legend._ncols == columns
    assert ["".join(text.get_text().split()) for text in legend.get_texts()] == [*runs, "train", "test"]


def test_a_picture_is_written(tmp_path, capsys):
    runs = [write_events(tmp_path / part / "run", [50.0, 60.0]) for part in ("a", "b")]
    assert call(*runs, "--out", tmp_path / "both.png") == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'both.png'}\n"
    pixels = matplotlib.image.imread(tmp_path / "both.png")[..., :3]
    assert pixels.shape[0] > 500
    for colour in ((0.122, 0.467, 0.706), (1.0, 0.498, 0.055)):  # one run's and the other's
        assert (np.abs(pixels - colour).max(-1) < 0.01).sum() > 100
    assert call(*runs, "--out", tmp_path / "both.svg") == 0
    assert "<svg" in (tmp_path / "both.svg").read_text()


@pytest.fixture
def folder(tmp_path):
    """What can be given wrongly."""
    write_events(tmp_path / "lenet5_xnornet", [50.0])
    write_events(tmp_path / "many" / "inner", [50.0])
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "events.out.tfevents.1.x").write_bytes(os.urandom(500))
    with SummaryWriter(str(tmp_path / "other")) as writer:
        writer.add_scalar("top1/train", 1.0, 1)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["lenet5_xnorne"], "no run directory 'lenet5_xnorne': did you mean 'lenet5_xnornet'?"),
        (
            ["lenet5_xnornet", "empty"],
            "'empty' has no TensorBoard file (events.out.tfevents.*); give the",
        ),
        (["many"], "'many' has no TensorBoard file (events.out.tfevents.*); give a run in it: many/inner"),
        (["damaged"], "in 'damaged' has no top1/train and no top1/test: it is damaged"),
        (["other"], "in 'other' has no top1/test: it is damaged"),
        (["lenet5_xnornet", "--out", "curves.jpg"], "--out 'curves.jpg' must end in .png, .svg, .pdf"),
        (["lenet5_xnornet", "--out", "none/curves.png"], "--out 'none/curves.png': there is no such directory"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(argv, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert call(*argv) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("plot_curves: error: ")
    assert message in error
    assert not list(folder.glob("curves.*"))
