"""tools/ablations.py: variants differ in one thing, are run once, and the page says which pay."""

import dataclasses
import json
import subprocess
from types import SimpleNamespace

import pytest
import tiny_runs  # noqa: F401  (registers a network)

import trainer_exp
from tools import ablations
from tools.reproducing import running, variants
from tools.reproducing.variant_runs import Variant, list_variants
from training.config import TrainConfig, parse_flags
from training.watch.runlog import read_log

# Variant -> the flags whose values are others than the base's.
CHANGED = {
    "base": set(),
    "base_2": {"seed"},
    "sgd": {"optimizer", "lr", "nesterov"},
    "crop_alternate": {"augment"},
    "batch_128": {"batch_size"},
    "one_cycle": {"lr_schedule"},
    "stage1": {"stage1_epochs"},
    "teacher": {"teacher", "distill_weight"},
}


def config_of(variant):
    return dataclasses.asdict(TrainConfig.create(**parse_flags(variant.flags)))


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_a_variant_changes_one_thing(name):
    base, changed = (config_of(list_variants("he_resnet20:x.th")[variant]) for variant in ("base", name))
    assert {flag for flag in base if changed[flag] != base[flag]} == CHANGED.get(name, {name})


# Pages.


def write_log(folder, name, last, **config):
    """The log of a finished run of a variant in ``folder``, as the trainer writes it."""
    variant = list_variants("he_resnet20:/home/me/x.th")[name]
    environment = {
        "command": f"python trainer_exp.py {' '.join(variant.flags)} --data-dir /home/me/pictures",
        "date": "2026-03-04T05:06:07+00:00", "device": "cpu", "cpu": "Some CPU", "threads": 2,
        "versions": {"xnorkit": "0.2.0", "torch": "2.15.0"},
    }  # fmt: skip
    test = {"top1": last, "top1_mirrored": last + 2}
    entries = [
        {"kind": "run", "config": config_of(variant) | config, "environment": environment},
        {"kind": "epoch", "epoch": 3, "test": test},
        {
            "kind": "result",
            "last_acc1": last,
            "best_acc1": last + 5,
            "seconds": 270.4,
            "checkpoint": "/home/me/best.pt",
        },
    ]
    (folder / name).mkdir(parents=True)
    (folder / name / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def rows_of(folder):
    """(variant -> column -> cell, the lines of what was not run) of the written page."""
    text = ablations.write_page(folder).read_text()
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("|")]
    rows = {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}
    return rows, [line for line in text.splitlines() if line.startswith("* ")]


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "page" / "ablations" / "runs"


def test_what_gains_more_than_two_seeds_differ_pays(tmp_path, logs):
    given = {"base": 60.0, "base_2": 61.0, "whiten": 61.6, "ema": 61.4, "sgd": 40.0}
    for name, last in given.items():
        write_log(logs, name, last)
    rows, waiting = rows_of(tmp_path / "page")
    found = {name: (row["last"], row["difference"], row["mirrored"], row["pays"]) for name, row in rows.items()}
    assert found == {
        "base": ("60.00", "", "62.00", ""), "base_2": ("61.00", "", "63.00", ""),
        "whiten": ("61.60", "+1.10", "63.60", "pays"), "ema": ("61.40", "+0.90", "63.40", "does not"),
        "sgd": ("40.00", "-20.50", "42.00", "does not"),
    }  # fmt: skip
    assert rows["sgd"]["change"] == "`--optimizer sgd --lr 0.1 --nesterov`"
    machine = "Some CPU, 2 threads; xnorkit 0.2.0, torch 2.15.0"
    assert [rows["ema"][name] for name in ("date", "machine")] == ["2026-03-04", machine]
    assert len(waiting) == len(variants.VARIANTS) - len(rows)
    assert "* `python tools/ablations.py --images DIR --only stage1`: `--stage1-epochs 1`" in waiting


def test_a_teacher_is_named(tmp_path, logs):
    write_log(logs, "teacher", 60.0, teacher="he_resnet20:x.th")
    change = rows_of(tmp_path / "page")[0]["teacher"]["change"]
    assert change == "`--import tools/he_resnets.py --teacher he_resnet20:x.th --distill-weight 0.7`"


def test_one_seed_cannot_say_what_pays(tmp_path, logs):
    write_log(logs, "base", 60.0)
    write_log(logs, "whiten", 70.0)
    row = rows_of(tmp_path / "page")[0]["whiten"]
    assert (row["difference"], row["pays"]) == ("+10.00", "")


def test_a_log_of_another_run_is_refused(tmp_path, logs, capsys):
    write_log(logs, "ema", 60.0, norm_images=5)
    assert ablations.main(["--folder", str(tmp_path / "page")]) == 2
    assert "the log of variant 'ema' has norm_images 5 instead of 0: it is of another run" in capsys.readouterr().err


def test_the_page_in_the_project_is_what_its_logs_give():
    folder = ablations.READMES / "ablations" / "runs"
    runs = {path.parent.name: ablations.read_run(path.parent) for path in folder.glob("*/log.jsonl")}
    assert (ablations.READMES / "ablations.md").read_text() == ablations.page(runs), "run python tools/ablations.py"


# Runs.


@pytest.fixture
def arguments(tmp_path):
    return ["--images", "p", "--runs", str(tmp_path / "runs"), "--folder", str(tmp_path / "page"), "--gpu", ""]


def test_variants_are_run_once_and_kept_without_places(tmp_path, logs, arguments, monkeypatch, capfd):
    monkeypatch.setattr(
        variants, "BASE", "--arch tiny_xnornet --dataset digits --epochs 1 --batch-size 200 --flip-test"
    )
    names = ["base", "norm_images"]
    with monkeypatch.context() as patch:  # torch and TensorBoard are imported already
        here = SimpleNamespace(run=lambda line: subprocess.CompletedProcess(line, trainer_exp.main(line[2:])))
        patch.setattr(running, "subprocess", here)
        assert ablations.main([*arguments, "--only", *names]) == 0
    rows, _ = rows_of(tmp_path / "page")
    last = {name: read_log(tmp_path / "runs" / name)[-1]["last_acc1"] for name in names}
    assert {name: row["last"] for name, row in rows.items()} == {name: f"{last[name]:.2f}" for name in names}
    assert all(row["mirrored"] for row in rows.values())
    for name in names:
        assert str(tmp_path) not in (logs / name / "log.jsonl").read_text()
    assert "base: starts in" in capfd.readouterr().out
    monkeypatch.setattr(subprocess, "run", None)
    assert ablations.main([*arguments, "--only", *names]) == 0
    assert "base: finished already" in capfd.readouterr().out


@pytest.fixture
def trainer(monkeypatch):
    """The trainer's command lines, which fail."""
    lines = []

    def run(command):
        lines.append(command[2:])
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    return lines


def test_without_a_teacher_its_variant_is_left_out(trainer, arguments):
    assert ablations.main(arguments) == 1
    assert len(trainer) == len(variants.VARIANTS) - 1
    assert ablations.main([*arguments, "--teacher", "he_resnet20:x.th"]) == 1
    (line,) = (line for line in trainer if "--teacher" in line)
    flags = parse_flags(line)
    assert flags["imports"] == ("tools/he_resnets.py",)
    assert (flags["teacher"], flags["distill_weight"], flags["data_dir"]) == ("he_resnet20:x.th", 0.7, "p")


def test_a_run_that_was_cut_goes_on_with_what_no_checkpoint_holds(trainer, arguments, tmp_path):
    run_dir = tmp_path / "runs" / "teacher"
    run_dir.mkdir(parents=True)
    (run_dir / "last.pt").touch()
    ablations.main([*arguments, "--teacher", "he_resnet20:x.th", "--only", "teacher"])
    places = ["--import", "tools/he_resnets.py", "--data-dir", "p", "--gpu", ""]
    assert trainer == [["--resume", str(run_dir), *places]]


def test_the_list_has_every_variant(capsys):
    assert ablations.main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and change in shown for name, change in variants.VARIANTS.items())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--only", "whitening"], "there is no variant 'whitening': did you mean 'whiten'"),
        (["--only", "teacher"], "variant 'teacher' needs --teacher ARCH:FILE"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_code_2(line, message, arguments, capsys):
    assert ablations.main([*arguments, *line]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_names_to_run_need_pictures(capsys):
    assert ablations.main(["--only", "base"]) == 2
    assert "give their pictures with --images" in capsys.readouterr().err


def test_imports_are_no_part_of_what_starts_a_run():
    variant = Variant("teacher", variants.VARIANTS["teacher"], "a:b")
    assert "--import" not in variant.flags
    assert variant.flags[-4:] == ["--teacher", "a:b", "--distill-weight", "0.7"]
