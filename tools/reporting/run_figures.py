"""What the logs of runs tell, and which float run each is compared with."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.plot_curves import Curves
from tools.reporting.run_dirs import nothing_in
from tools.reproducing.kept_logs import machine, without_places
from training.config.defaults import resolve
from training.watch.runlog import FILE, read_log

NOT_LOGGED = "the log is of a version that did not record it"
NO_FILE = "the run wrote no ONNX file; train with --export, or report with --measure"
OTHER_FORMAT = "its ONNX file is not in format packed; report with --measure"
STAGE_1 = "all epochs so far are of the first of two stages, with float weights"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its log tells it.

    Attributes:
        name: of its directory.
        group: network and data, which runs to be compared have in common; ``title`` says it to people.
        arch, scheme: as it was trained; scheme "float" where no layer is binary.
        epochs, wanted: done, and in all.
        machines: what computed, one entry where it was never continued elsewhere.
        command, date: of its start.
        figures: column of the table -> value; ``missing``: column -> why there is none.
    """

    name: str
    group: tuple
    title: str
    arch: str
    scheme: str
    epochs: int
    wanted: int
    machines: tuple[str, ...]
    command: str
    date: str
    curves: Curves
    figures: dict[str, float]
    missing: dict[str, str]

    @property
    def is_float(self) -> bool:
        return self.scheme == "float"

    def with_figures(self, figures: dict[str, float]) -> "Run":
        """The run with further figures, or others."""
        missing = {key: why for key, why in self.missing.items() if key not in figures}
        return dataclasses.replace(self, figures=self.figures | figures, missing=missing)

    def without(self, figure: str, why: str) -> "Run":
        """The run with the reason why it lacks a figure."""
        return dataclasses.replace(self, missing=self.missing | {figure: why})


def read_entries(run_dir: Path) -> list[dict[str, Any]]:
    """A run's log without places. Raises FileNotFoundError or ValueError where it tells of no finished epoch."""
    if not (run_dir / FILE).is_file():
        raise FileNotFoundError(nothing_in(run_dir, "log", FILE))
    try:
        entries = [without_places(entry) for entry in read_log(run_dir)]
        kinds = {entry["kind"] for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{str(run_dir / FILE)!r} is damaged, or no log of trainer_exp.py: {error}") from error
    if not {"run", "epoch"} <= kinds:
        raise ValueError(f"the run in {str(run_dir)!r} has no finished epoch; continue it with trainer_exp.py --resume")
    return entries


def read_run(name: str, run_dir: Path) -> Run:
    """A run, finished or not. Raises FileNotFoundError or ValueError, in one sentence."""
    entries = read_entries(run_dir)
    starts, epochs, exports = ([e for e in entries if e["kind"] == kind] for kind in ("run", "epoch", "export"))
    start, config = starts[0], starts[-1]["config"]
    network = base_network(config["arch"])
    figures, missing = figures_of(starts[-1], epochs, exports)
    return Run(
        name=name,
        group=(network, config["dataset"], json.dumps(start["data"])),
        title=f"{network} on {config['dataset']}",
        arch=config["arch"],
        scheme="float" if start["scheme"] is None and not config["overrides"] else start["scheme"] or "mixed",
        epochs=epochs[-1]["epoch"],
        wanted=config["epochs"],
        machines=tuple(dict.fromkeys(machine(entry["environment"]) for entry in starts)),
        command=start["environment"]["command"],
        date=start["environment"]["date"][:10],
        curves=Curves(*({e["epoch"]: e[part]["top1"] for e in epochs} for part in ("train", "test"))),
        figures=figures,
        missing=missing,
    )


def base_network(arch: str) -> str:
    """The network without its scheme: "nin_gc" of "nin_gc_xnornet"."""
    try:
        return resolve(arch).arch
    except ValueError:  # of another version, or registered by a script
        return arch


def figures_of(start: dict, epochs: list[dict], exports: list[dict]) -> tuple[dict[str, float], dict[str, str]]:
    """The figures of a log, from the entries of its kinds, and why others are not there."""
    cost, packed = start["cost"], start["config"].get("export_format", "packed") == "packed"
    binary = [e["test"] for e in epochs if not e.get("float_weights")]
    peaks = [e["peak_memory"]["device"] or e["peak_memory"]["host"] for e in epochs if "peak_memory" in e]
    found: dict[str, tuple[float | None, str]] = {
        "top1": (max((test["top1"] for test in binary), default=None), STAGE_1),
        "file_bytes": (exports[-1]["bytes"] if exports and packed else None, NO_FILE if packed else OTHER_FORMAT),
        "packed_bytes": (cost["packed_bytes"], ""),
        "peak_memory": (max(filter(None, peaks), default=None), NOT_LOGGED),
        "training_seconds": (sum(e["train"]["seconds"] for e in epochs), ""),
        "test_seconds": (
            statistics.median(test["seconds"] / test["images"] for test in binary) if binary else None, STAGE_1
        ),
        "macs": (cost["macs"], ""),
        "binary_macs": (cost["binary_macs"], ""),
    }  # fmt: skip
    figures = {key: value for key, (value, _) in found.items() if value is not None}
    return figures, {key: why for key, (value, why) in found.items() if value is None}


def twin(run: Run, runs: Sequence[Run]) -> Run | None:
    """The float run that a binary one is compared with.

    Of the same network and data; where there are several, one of the same --arch, then one of as many epochs.
    """
    floats = [other for other in runs if other.is_float and other.group == run.group]
    if run.is_float or not floats:
        return None
    return max(floats, key=lambda other: (other.arch == run.arch, other.wanted == run.wanted))


def families(runs: Sequence[Run]) -> list[list[Run]]:
    """Each float run before the binary ones compared with it; binary ones without one by group, at their place."""
    by_head: dict[Any, list[Run]] = {}
    for run in runs:
        head = run if run.is_float else twin(run, runs)
        by_head.setdefault(run.group if head is None else head.name, []).append(run)
    return [sorted(family, key=lambda run: not run.is_float) for family in by_head.values()]
