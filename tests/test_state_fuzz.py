"""The fuzz test of checkpoints, with few mutants (`make fuzz-state` has many), what it must find, and the sentences."""

import copy
from pathlib import Path

import pytest
import torch
from fuzz_state import driver
from fuzz_state.mutations import mutant
from fuzz_state.seeds import write_seeds
from tiny_runs import call

import training

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return write_seeds(tmp_path_factory.mktemp("seeds"))


def test_few_mutants(seeds, tmp_path):
    counts, failures = driver.fuzz(seeds, tmp_path, range(100), seed=7)
    assert not failures
    assert counts["accepted"] + counts["refused"] == 100
    assert counts["accepted"] > 5
    assert counts["refused"] > 50


def test_every_valid_file_is_accepted_in_every_way(seeds, tmp_path):
    for number, (name, contents) in enumerate(seeds.items()):
        torch.save(contents, tmp_path / "valid.pt")
        for way in dict.fromkeys(driver.WAYS[name.split()[-1]]):
            found = driver.verdict(way, tmp_path / "valid.pt", tmp_path / f"{way.__name__}{number}")
            convertible = way is not driver.pack or not name.startswith("float")
            assert found == ("accepted" if convertible else "refused"), (name, way)


def test_mutants_are_the_same_everywhere(seeds):
    assert [mutant(seeds, n)[:2] for n in range(30)] == [mutant(seeds, n)[:2] for n in range(30)]
    assert [mutant(seeds, n)[:2] for n in range(30)] != [mutant(seeds, n, seed=1)[:2] for n in range(30)]


@pytest.mark.parametrize("error", [KeyError("plan"), TypeError("x"), ValueError("two\nlines")])
def test_the_driver_sees_what_escapes(error, tmp_path):
    def fail(file, out):
        raise error

    assert driver.verdict(fail, tmp_path, tmp_path).startswith("ESCAPED")


def put(contents, path, value):
    contents = copy.deepcopy(contents)
    *way, last = path
    inner = contents
    for key in way:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return contents


# A way to open, where the change is, the value (None: the entry is gone), and what is said of it.
CHANGED = [
    ("evaluate", ["plan"], None, " has no 'plan'"),
    ("evaluate", ["epoch"], "x", "['epoch'] is 'x' instead of int"),
    ("evaluate", ["classes"], 10, "['classes'] is 10 instead of list[str]"),
    ("evaluate", ["input_size"], (1, 8), "['input_size'] has 2 values instead of 3"),
    ("evaluate", ["input_size"], (1, 9, 99), "has the input size (1, 9, 99), which 'tiny_xnornet' does not take"),
    ("evaluate", ["normalization", "std"], (0.0,), "has the normalization"),
    ("evaluate", ["model", 3], torch.zeros(1), "['model'] has a key 3, which is no str"),
    ("evaluate", ["model", "0.weight"], torch.zeros(1).to_sparse(), "has a tensor that is no plain array"),
    ("evaluate", ["plan", 1, "shape"], "8x8", "['plan'][1]['shape'] is '8x8' instead of tuple[int, ...]"),
    ("evaluate", ["plan", 0, "name"], "5", " has a plan with a layer twice"),
    ("evaluate", ["plan", 0, "x"], 1, " has a plan with 'x', which this version does not know"),
    ("evaluate", ["config", "lr"], "0.1", "['config']['lr'] is '0.1' instead of float"),
    ("evaluate", ["config", "ema"], 3.0, "['config'] cannot be used (--ema is 3.0; it must be at least 0 and below 1)"),
    ("resume", ["rng"], None, " has no 'rng'"),
    ("resume", ["config", "optimizer"], None, "['config'] has no 'optimizer'"),
    ("resume", ["trained"], None, "has no 'trained', the weights that a run with --ema goes on with"),
    (
        "resume",
        ["optimizer", "state", 0, "exp_avg"],
        torch.zeros(3),
        "['optimizer'] has for 0 what is no state of Adam",
    ),
    ("resume", ["optimizer", "state", 99], {}, "['optimizer'] has for 99 what is no state of Adam"),
    ("resume", ["optimizer", "state", 3], None, "['optimizer'] has the state of "),
    ("resume", ["rng", 0, "cpu"], torch.zeros(3), "['rng'] is no random state"),
    ("resume", ["partial", "images"], 10**9, "['partial'] is not within an epoch of 1,442 images"),
    ("resume", ["partial", "signs", "2"], torch.zeros(3), "['partial']['signs'] is not of this network's layers"),
    ("resume", ["arch"], "tiny_bnn", "has the network and images"),
]


@pytest.mark.parametrize(("flag", "path", "value", "said"), CHANGED, ids=lambda value: "")
def test_what_was_changed_is_one_sentence(seeds, flag, path, value, said, capsys):
    torch.save(put(seeds["adam partial"], path, value), "changed.pt")
    assert call(f"--{flag}", "changed.pt", "--log-path", "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("trainer_exp.py: error: 'changed.pt' is damaged or was changed: its contents")
    assert said in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_weights_of_another_kind_are_refused(seeds, capsys):
    weights = {**seeds["weights"], "0.weight": seeds["weights"]["0.weight"].to(torch.int32)}
    torch.save(weights, "weights.pt")
    assert call("--arch", "tiny", "--dataset", "digits", "--pretrained", "weights.pt") == 2
    assert "'0.weight' has type torch.int32 there, torch.float32 here" in capsys.readouterr().err


def test_a_file_of_an_older_version_loads(seeds):
    old = dict(seeds["adam partial"])
    for name in ("scaler", "partial"):  # came later
        del old[name]
    old["rng"], old["scheduler"] = old["rng"][0], {}
    old["optimizer"] = {name: old["optimizer"][name] for name in ("state", "param_groups")}
    old["config"] = {
        name: value for name, value in old["config"].items() if name not in ("amp", "accumulate", "dropout")
    }
    torch.save(old, "old.pt")
    assert training.load_model("old.pt")[1].arch == "tiny_xnornet"
    flags = {"resume": "old.pt", "gpu": "cpu", "log_path": "out"}
    assert training.setup(training.config_from_flags(flags)).epoch == old["epoch"]
