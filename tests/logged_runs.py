"""Logs of runs that never were, in the trainer's format, with figures that a test can compute with."""

import json

from training.config import TrainConfig, parse_flags

TEST_IMAGES = 1000


def write_log(run_dir, flags, *, scheme, tests=(90.0, 91.234), **changes):
    """The log of a finished run in ``run_dir``.

    ``changes``: wanted (epochs), trains (top-1), train_seconds, test_seconds, peak (bytes), float_weights (how many
    epochs), file_bytes, cost, machine, classes; a peak of None is a log of a version that recorded none.
    """
    given = {"wanted": len(tests), "trains": tests, "train_seconds": 60.0, "test_seconds": 2.0, "peak": None} | changes
    config = vars(TrainConfig.create(**parse_flags(flags.split()))) | {"epochs": given["wanted"]}
    environment = {
        "command": f"python trainer_exp.py {flags} --data-dir /home/me/data", "date": "2026-03-04T05:06:07+00:00",
        "device": "cpu", "cpu": given.get("machine", "Some CPU"), "threads": 1,
        "versions": {"xnorkit": "0.1.0", "torch": "2.15.0"},
    }  # fmt: skip
    cost = {"macs": 2_000_000, "binary_macs": 0, "parameters": 1, "float_bytes": 4_000_000, "packed_bytes": 4_000_000}
    data = {"train": 5000, "test": TEST_IMAGES, "classes": given.get("classes", ["a", "b"])}
    start = {"kind": "run", "epochs_done": 0, "config": config, "scheme": scheme, "environment": environment}
    entries = [start | {"cost": cost | given.get("cost", {}), "data": data}]
    for i, (train, test) in enumerate(zip(given["trains"], tests, strict=True)):
        entry = {"kind": "epoch", "epoch": i + 1, "lr": 0.1, "float_weights": i < given.get("float_weights", 0)}
        for part, top1, images in (("train", train, 5000), ("test", test, TEST_IMAGES)):
            entry[part] = {"loss": 1.0, "top1": top1, "images": images, "seconds": given[f"{part}_seconds"] + i}
        peak = {} if given["peak"] is None else {"peak_memory": {"host": given["peak"] + i, "device": None}}
        entries.append(entry | peak)
    if len(tests) == given["wanted"]:
        entries.append({"kind": "result", "best_acc1": max(tests), "last_acc1": tests[-1], "seconds": 1.0})
    if "file_bytes" in given:
        entries.append({"kind": "export", "bytes": given["file_bytes"]})
    return write_entries(run_dir, entries)


def write_entries(run_dir, entries):
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return run_dir


def entries_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
