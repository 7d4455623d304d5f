"""tools/results.py: each figure comes from a log, nothing of the machine's places gets into the page."""

import json
import shlex

import pytest

from tools import results
from tools.reproducing.jobs import ALL, Job
from training.config import TrainConfig, parse_flags

HOME = "/home/me"


def write_log(run_dir, flags, best=91.234, **changes):
    """A finished run's log as the trainer writes it, on a machine with places of its own."""
    config = {**vars(TrainConfig.create(**parse_flags(flags))), "data_dir": f"{HOME}/data", "log_path": f"{HOME}/x"}
    command = shlex.join(["python", "trainer_exp.py", *flags, "--data-dir", f"{HOME}/data", f"--log-path={HOME}/x"])
    environment = {
        "command": command, "date": "2026-03-04T05:06:07+00:00", "device": "cpu", "cpu": "Some CPU", "threads": 2,
        "versions": {"xnorkit": "0.1.0", "torch": "2.15.0"},
    }  # fmt: skip
    cost = {"macs": 1_234_000, "binary_macs": 5_678_000, "parameters": 4321, "float_bytes": 17284, "packed_bytes": 987}
    run = {"kind": "run", "epochs_done": 0, "config": config, "environment": environment, "cost": cost}
    result = {
        "kind": "result", "best_acc1": best, "last_acc1": 90.5, "seconds": 3725.4, "checkpoint": f"{HOME}/x/best.pt"
    }  # fmt: skip
    run_dir.mkdir(parents=True)
    write_entries(run_dir, [run | changes, {"kind": "epoch", "epoch": 1}, result])
    return run_dir


def write_entries(run_dir, entries):
    (run_dir / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def kept(tmp_path, job, **options):
    return write_log(tmp_path / "page" / "runs" / job.name, job.flags, **options)


def rows_of(tmp_path):
    """Section -> name -> column -> cell, read back from the written page; of what was not run the lines."""
    sections = {}
    for part in results.write_page(tmp_path / "page").read_text().split("\n## ")[1:]:
        if part.startswith("Not run\n"):
            sections["Not run"] = [line for line in part.splitlines() if line.startswith("* ")]
            continue
        header, _, *rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in row] for row in rows]
        sections[part.splitlines()[0]] = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    return sections


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "page" / "runs").mkdir(parents=True)


def test_what_was_not_run_is_listed_after_all_that_was(tmp_path):
    kept(tmp_path, Job(ALL["lenet5_float"]))
    sections = rows_of(tmp_path)
    assert list(sections) == ["MNIST", "Not run"]
    assert sections["MNIST"].keys() == {"lenet5_float"}
    assert sections["Not run"] == [
        f"* `python tools/reproduce.py {target.name}`: {target.section}, {target.epochs} epochs"
        + (f", published {target.published}" if target.published else "")
        for target in ALL.values() if target.name != "lenet5_float"
    ]  # fmt: skip
    assert "* `python tools/reproduce.py nin_gc`: CIFAR-10, 200 epochs, published 92.72" in sections["Not run"]


def test_a_run_fills_its_row_and_its_twins(tmp_path):
    kept(tmp_path, Job(ALL["lenet5_float"]), best=99.5)
    kept(tmp_path, Job(ALL["lenet5_xnornet"]))
    row = rows_of(tmp_path)["MNIST"]["lenet5_xnornet"]
    command = row.pop("command")
    assert row == {
        "name": "lenet5_xnornet", "data": "MNIST", "published": "99.23", "ours": "91.23", "last": "90.50",
        "float": "99.50",
        "epochs": "30", "time": "1:02:05", "parameters": "4,321", "float MACs": "1.23 M", "binary MACs": "5.68 M",
        "packed bytes": "987", "date": "2026-03-04", "machine": "Some CPU, 2 threads; xnorkit 0.1.0, torch 2.15.0",
    }  # fmt: skip
    assert parse_flags(shlex.split(command.strip("`"))[2:]) == parse_flags(Job(ALL["lenet5_xnornet"]).flags)


def test_a_shorter_budget_is_marked_and_the_longest_shown(tmp_path):
    for epochs, best in ((2, 50.0), (10, 60.0)):
        kept(tmp_path, Job(ALL["nin"], epochs=epochs), best=best)
    kept(tmp_path, Job(ALL["nin_float3x3"], epochs=10), best=70.0)
    kept(tmp_path, Job(ALL["nin_xnornet"], epochs=10))
    sections = rows_of(tmp_path)
    assert (sections["CIFAR-10"]["nin_10epochs"]["epochs"], sections["CIFAR-10"]["nin_10epochs"]["ours"]) == (
        "10 of 200", "60.00",
    )  # fmt: skip
    assert sections["CIFAR-10"]["nin_xnornet_10epochs"]["float"] == "70.00"
    assert sections["Other runs"].keys() == {"nin_2epochs"}
    kept(tmp_path, Job(ALL["nin"]), best=92.0)
    assert rows_of(tmp_path)["CIFAR-10"]["nin"]["epochs"] == "200"


def test_runs_on_a_tree_of_pictures_say_so_and_are_compared_with_such_runs_only(tmp_path):
    kept(tmp_path, Job(ALL["nin_xnornet"], images=True), best=80.0)
    kept(tmp_path, Job(ALL["nin_float3x3"]), best=92.0)
    sections = rows_of(tmp_path)
    row = sections["CIFAR-10"]["nin_xnornet_images"]
    assert row["data"] == "CIFAR-10 (98 of 60,000 images from JPEG)"
    assert (row["published"], row["ours"], row["float"]) == ("86.28", "80.00", "not run")
    assert sections["CIFAR-10"].keys() == {"nin_float3x3", "nin_xnornet_images"}
    assert sections["CIFAR-10"]["nin_float3x3"]["data"] == "CIFAR-10"
    assert not [line for line in sections["Not run"] if "reproduce.py nin_xnornet`" in line]


def test_added_logs_and_the_page_have_no_places(tmp_path, capsys):
    run = write_log(tmp_path / "mine", ["--arch", "lenet5", "--dataset", "digits"])
    assert results.main(["--add", str(run), "--folder", str(tmp_path / "page")]) == 0
    log = tmp_path / "page" / "runs" / "mine" / "log.jsonl"
    page = (tmp_path / "page" / "results.md").read_text()
    for text in (page, log.read_text()):
        assert "trainer_exp.py --arch lenet5 --dataset digits" in text
        assert HOME not in text
        assert "--data-dir /" not in text
    original = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    copied = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry.keys() for entry in copied] == [entry.keys() for entry in original]
    assert copied[0]["cost"] == original[0]["cost"]


@pytest.mark.parametrize(
    ("teacher", "shown"),
    [
        (["--teacher", f"{HOME}/runs/big"], "--teacher big"),
        ([f"--teacher={HOME}/runs/big/best.pt"], "--teacher=best.pt"),
        (["--teacher", f"resnet18:{HOME}/a=b:c/best.pt"], "--teacher resnet18:best.pt"),
        ([f"--teacher=timm/resnet18:{HOME}/best.pt"], "--teacher=timm/resnet18:best.pt"),
        (["--teacher", "runs/big"], "--teacher runs/big"),
        (["--pretrained", f"{HOME}/w.pt"], "--pretrained w.pt"),
    ],
)
def test_of_absolute_paths_in_a_log_the_last_name_stays(tmp_path, teacher, shown):
    run = write_log(tmp_path / "mine", ["--arch", "lenet5", "--dataset", "digits", *teacher])
    results.keep(run, tmp_path / "page")
    text = (tmp_path / "page" / "runs" / "mine" / "log.jsonl").read_text()
    assert HOME in (run / "log.jsonl").read_text()
    assert HOME not in text
    assert shown.split(maxsplit=1)[-1] in text
    assert rows_of(tmp_path)["Other runs"]["mine"]["command"].endswith(f"{shown}`")


def test_a_resumed_run_shows_the_command_that_started_it(tmp_path):
    run = write_log(tmp_path / "mine", ["--arch", "lenet5", "--dataset", "digits"])
    first, *others = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    second = json.loads(json.dumps(first))
    second["environment"] |= {"command": "python trainer_exp.py --resume x", "device": "A GPU"}
    write_entries(run, [first, second, *others])
    results.keep(run, tmp_path / "page")
    row = rows_of(tmp_path)["Other runs"]["mine"]
    assert row["command"] == "`python trainer_exp.py --arch lenet5 --dataset digits`"
    assert row["machine"].startswith("A GPU;")


def test_a_log_of_another_run_under_a_targets_name_is_refused(tmp_path, capsys):
    job = Job(ALL["lenet5_xnornet"])
    write_log(tmp_path / "page" / "runs" / job.name, [*job.flags, "--lr", "0.5"])
    assert results.main(["--folder", str(tmp_path / "page")]) == 2
    shown = capsys.readouterr().err
    assert "target 'lenet5_xnornet' has lr 0.5 instead of 0.01" in shown
    assert shown.count("\n") == 1


def test_an_unfinished_run_is_refused(tmp_path, capsys):
    run = write_log(tmp_path / "mine", ["--arch", "lenet5", "--dataset", "digits"])
    write_entries(run, [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][:-1])
    assert results.main(["--add", str(run), "--folder", str(tmp_path / "page")]) == 2
    assert "is not finished; continue it with trainer_exp.py --resume" in capsys.readouterr().err
    assert not (tmp_path / "page" / "runs" / "mine").exists()


def test_the_page_in_the_project_is_what_its_logs_give(tmp_path):
    runs = {path.parent.name: results.read_run(path.parent) for path in results.READMES.glob("runs/*/log.jsonl")}
    assert (results.READMES / "results.md").read_text() == results.page(runs), "run python tools/results.py"
