"""Runs' best checkpoints as the files that ship, ONNX files with packed weights: their size and their speed."""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import quantize
from tools.benchmarking.timing import Contestant, Timer
from tools.reporting.run_figures import Run
from training import load_model
from training.checkpoint import BEST

ROUNDS = 15  # turns of each file


def measure(runs: Sequence[Run], run_dirs: Sequence[Path]) -> list[Run]:
    """The runs with "file_bytes" and "onnx_seconds", or the reason why they have none.

    Files are timed in turns, one image and one thread each: what else the machine does slows all of them. Raises
    ValueError or OSError for a checkpoint that cannot be read.
    """
    found, contestants = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (run, run_dir) in enumerate(zip(runs, run_dirs, strict=True)):
            try:
                size, contestants[i] = exported(run_dir, Path(folder) / f"{i}.onnx")
                found.append(run.with_figures({"file_bytes": size}))
            except _Unmeasured as reason:
                found.append(run.without("onnx_seconds", str(reason)))
        times = Timer(ROUNDS).measure(list(contestants.values()))
    for i, its_times in zip(contestants, times, strict=True):
        found[i] = found[i].with_figures({"onnx_seconds": its_times.median})
    return found


class _Unmeasured(Exception):
    """A run without a file; the message says why."""


def exported(run_dir: Path, path: Path) -> tuple[int, Contestant]:
    """Write the file of a run's best checkpoint: its bytes, and a call of it with one image."""
    if not (run_dir / BEST).is_file():
        raise _Unmeasured(f"there is no {BEST} to measure")
    model, info = load_model(run_dir)
    images = torch.randn(2, *info.input_size, generator=torch.Generator().manual_seed(0))
    try:
        size = quantize.export_onnx(model, path, images).size
    except (quantize.ExportMismatch, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise _Unmeasured(f"its {BEST} cannot be written as an ONNX file ({reason})") from error
    session = quantize.ort_session(path, threads=1)
    feed = {session.get_inputs()[0].name: images[:1].numpy()}
    return size, Contestant(str(run_dir), 1, functools.partial(session.run, None, feed))
