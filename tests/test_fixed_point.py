"""tools/fixed_point.py: from a checkpoint to the table, and the search for the smallest width."""

import re

import pytest
from tiny_runs import train
from torch import nn

import models
from tools import fixed_point
from tools.fixed_arithmetic.fixed_formats import Format
from training.watch.runlog import read_log

COUNT = 355  # test images of the digits
LAYERS = ["image", "normalization", "0", "1", "2", "4", "5", "9"]


@models.register_model("thin_mlp", input_size=(1, 8, 8))
def thin_mlp(num_classes=10, in_chans=1, layout="float"):
    """Two linear layers, named as those of mlp."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64 * in_chans, 16), nn.BatchNorm1d(16), nn.ReLU())
    layers.add_module("fc", nn.Linear(16, num_classes))
    return layers


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A binary run: layers 0 and 9 float, 2 and 5 binary."""
    path = tmp_path_factory.mktemp("runs") / "binary"
    train(path, epochs=3, batch_size=16)
    return path


def call(capsys, *argv):
    """Exit code and output of the command line on the CPU."""
    code = fixed_point.main(["--gpu", "", *map(str, argv)])
    return code, capsys.readouterr()


def accuracy(line):
    return float(re.search(r"([\d.]+)%", line)[1])


def rows(text):
    """Layer -> cells of the table."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("layer "))
    cells = (re.split(r"  +", line.strip()) for line in lines[start + 2 :])
    return {name: rest for name, *rest in cells}


def test_both_modes_time_and_a_row_a_layer(run_dir, capsys):
    code, shown = call(capsys, "--model", run_dir, "--dataset", "digits", "--mode", "fixed")
    title, floating, fixed, *_ = shown.out.splitlines()
    assert code == 0
    assert title == f"tiny_xnornet (xnor) on digits, {COUNT} test images"
    best = read_log(run_dir)[-1]["best_acc1"]
    assert accuracy(floating) == pytest.approx(best, abs=0.6)  # a sign may flip where batch norm is merged
    assert accuracy(fixed) == pytest.approx(best, abs=3)
    assert all(re.search(r"time [\d.]+s", line) for line in (floating, fixed))
    difference = float(re.search(r"([+-][\d.]+) points from float", fixed)[1])
    assert difference == pytest.approx(accuracy(fixed) - accuracy(floating), abs=0.011)  # of figures that are rounded
    table = rows(shown.out)
    assert list(table) == LAYERS
    assert table["image"][:3] == ["image", "7", "0"]
    assert table["2"][:4] == ["conv", "15", "8", "0.0000%"]
    assert table["4"][:3] == ["norm", "15", "3"]
    assert table["9"][:3] == ["linear", "15", "10"]
    assert all(re.fullmatch(r"[\d.]+ dB|exact", cells[4]) for cells in table.values())


def test_float_mode_shows_the_float_network_alone(run_dir, capsys):
    code, shown = call(capsys, "--model", run_dir, "--mode", "float", "--count", "100")
    assert code == 0
    assert shown.out.splitlines()[0].endswith(", 100 test images")
    assert len(shown.out.splitlines()) == 2


@pytest.mark.parametrize("mode", ["fixed", "float"])
def test_the_older_command_line_runs(run_dir, mode, capsys):
    code, shown = call(capsys, "--model", run_dir / "best.pt", "--no", "50", "--mode", mode)
    assert code == 0
    assert shown.out.splitlines()[0].endswith(", 50 test images")


def test_bits_of_kinds_and_of_names(run_dir, tmp_path, capsys):
    settings = tmp_path / "bits.txt"
    settings.write_text("4 12 2\n9.weight 3 0  # a parameter\n")
    flags = ("--total-bits", "9", "--int-bits", "conv=5", "image=1", "--settings", settings)
    code, shown = call(capsys, "--model", run_dir, *flags)
    assert code == 0
    found = {name: cells[1:3] for name, cells in rows(shown.out).items()}
    assert found == {
        "image": ["7", "1"], "normalization": ["9", "3"], "0": ["9", "5"], "1": ["9", "3"], "2": ["9", "5"],
        "4": ["12", "2"], "5": ["9", "5"], "9": ["9", "10"],
    }  # fmt: skip
    ratios = {name: float(cells[5].removesuffix(" dB")) for name, cells in rows(shown.out).items() if name in "09"}
    assert ratios["9"] < 25 < ratios["0"]


def test_the_last_layer_of_the_mlp_has_its_own_format(tmp_path, monkeypatch, capsys):
    assert fixed_point.OWN_FORMATS["mlp"] == {"fc": Format(20, 17)}
    train(tmp_path, arch="thin_mlp", epochs=1)
    monkeypatch.setitem(fixed_point.OWN_FORMATS, "thin_mlp", fixed_point.OWN_FORMATS["mlp"])
    assert rows(call(capsys, "--model", tmp_path)[1].out)["fc"][:3] == ["linear", "20", "17"]
    settings = tmp_path / "bits.txt"
    settings.write_text("fc 11 5\n")
    shown = call(capsys, "--model", tmp_path, "--total-bits", "9", "--settings", settings)[1].out
    assert rows(shown)["fc"][:3] == ["linear", "11", "5"]
    assert rows(shown)["1"][:3] == ["linear", "9", "10"]


# The search.


@pytest.mark.parametrize(
    ("accuracies", "loss", "expected"),
    [
        ([10.0, 50.0, 90.0, 96.97, 97.0], 0.03, 4),  # 97.0 - 96.97 is above 0.03 in float
        ([10.0, 50.0, 90.0, 96.97, 97.0], 0.02, 5),
        ([97.0, 50.0, 90.0], 0.0, 1),
        ([10.0, 96.9, 50.0, 97.0], 0.3, 2),  # accuracy need not rise
        ([10.0, 50.0, 96.0], 0.5, None),
    ],
)
def test_smallest_width(accuracies, loss, expected):
    found = fixed_point.smallest_width(lambda bits: accuracies[bits - 1], 97.0, loss, len(accuracies))
    assert found == expected


@pytest.mark.parametrize("loss", [0.5, 5])
def test_the_width_found_fulfils_the_bound_and_one_bit_less_does_not(run_dir, capsys, loss):
    code, shown = call(capsys, "--model", run_dir, "--search", loss)
    assert code == 0
    lines = shown.out.splitlines()
    bits = next(int(line[4:6]) for line in lines if line.startswith("T = "))
    assert [int(line.split()[1]) for line in lines if line.startswith("tried")] == list(range(1, bits + 1))

    def lost(total):
        _, floating, fixed, *_ = call(capsys, "--model", run_dir, "--total-bits", total)[1].out.splitlines()
        return accuracy(floating) - accuracy(fixed)

    assert lost(bits) <= loss + 0.01  # accuracies are shown in two digits
    assert lost(bits - 1) > loss


def test_a_search_without_a_result(run_dir, capsys):
    code, shown = call(capsys, "--model", run_dir, "--search", "--total-bits", "3")
    assert code == 1
    assert "no T up to 3 loses at most 0.3 points" in shown.err


# What cannot be used.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--total-bits", "0"], "a format cannot have 0 total bits; give 1 to 24"),
        (["--total-bits", "25"], "a format cannot have 25 total bits; give 1 to 24"),
        (["--int-bits", "conv=25"], "a format cannot have 25 integer bits; give 0 to 24"),
        (["--count", "0"], "--count is 0; it must be from 1 to the 355 test images"),
        (["--dataset", "digts"], "unknown dataset 'digts'"),
        (["--search", "-1"], "--search is -1.0; it must be from 0"),
        (["--search", "nan"], "--search is nan; it must be from 0"),
        (["--search", "--mode", "float"], "leave out --mode float"),
        (["--settings", "none.txt"], "'none.txt' (No such file or directory); give a text file of lines NAME T I"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(run_dir, arguments, message, capsys):
    code, shown = call(capsys, "--model", run_dir, *arguments)
    assert code == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_settings_for_a_layer_that_does_not_exist_have_close_names(run_dir, tmp_path, capsys):
    settings = tmp_path / "bits.txt"
    settings.write_text("normalisation 15 3\n")
    code, shown = call(capsys, "--model", run_dir, "--settings", settings)
    assert code == 2
    assert "the network has no tensor 'normalisation' to give a format: did you mean 'normalization'" in shown.err
    assert shown.out == ""  # before anything ran


def test_a_missing_checkpoint(tmp_path, capsys):
    code, shown = call(capsys, "--model", tmp_path / "none")
    assert code == 2
    assert "there is no checkpoint" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "fixd"], "invalid choice: 'fixd'"),
        (["--int-bits", "cnv=3"], "'cnv=3' is not KIND=BITS with a whole number; did you mean 'conv'"),
        (["--int-bits", "conv=-3"], "'conv=-3' is not KIND=BITS"),
    ],
)
def test_what_argparse_refuses(run_dir, arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        call(capsys, "--model", run_dir, *arguments)
    assert message in capsys.readouterr().err
