"""A run's best checkpoint as the file that ships, an ONNX file with packed weights: its size and its speed."""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

import quantize
from tools.reporting.run_figures import Run
from training import load_model
from training.checkpoint import BEST

WARM_UP, REPEATS = 5, 50


def measure(run: Run, run_dir: Path) -> Run:
    """The run with "file_bytes" and "onnx_seconds", or the reason why it has none.

    Raises ValueError or OSError for a checkpoint that cannot be read.
    """
    if not (run_dir / BEST).is_file():
        return run.without("onnx_seconds", f"there is no {BEST} to measure")
    model, info = load_model(run_dir)
    images = torch.randn(2, *info.input_size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = quantize.export_onnx(model, Path(folder) / "model.onnx", images)
        except (quantize.ExportMismatch, ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            return run.without("onnx_seconds", f"its {BEST} cannot be written as an ONNX file ({reason})")
        return run.with_figures({"file_bytes": report.size, "onnx_seconds": seconds(report.path, images[:1])})


def seconds(path: Path, image: Tensor) -> float:
    """Median time of a call of the model in the file with ``image`` (1, C, H, W)."""
    session = quantize.ort_session(path, threads=1)
    inputs = {session.get_inputs()[0].name: image.numpy()}
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])
