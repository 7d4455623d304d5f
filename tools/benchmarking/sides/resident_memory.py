"""Memory of a network and its float twin: what is stored, and the peak of a forward pass.

Each is measured in a process of its own: how much the resident memory grows when the network is loaded from a file,
and from there to the peak of its first forward pass, which Linux keeps (VmHWM) and resets on demand.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import quantize

from .network_sides import NetworkCase

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROOT = Path(__file__).resolve().parents[3]
# Memory that is given back is returned to the system at once, not kept for later.
TIDY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def resident(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def forward_peak(path: Path, others: list[Path], x: torch.Tensor) -> dict[str, int]:
    """Bytes that loading the network adds, and that the peak of its forward pass adds to it.

    ``others`` run first: code and tables of libraries, which come with the first call, are no network's own.
    """
    torch.set_num_threads(1)
    with torch.inference_mode():
        for other in others:
            _load(other)(x)
        gc.collect()
        before = resident("VmRSS")
        model = _load(path)
        loaded = resident("VmRSS")
        CLEAR.write_text("5")
        model(x)
        return {"model": loaded - before, "forward": resident("VmHWM") - loaded}


def _load(path: Path) -> nn.Module:
    return torch.load(path, weights_only=False)  # of this tool's own making, a moment ago


def measure_memory(case: NetworkCase, batch: int) -> dict[str, Any] | None:
    """Bytes of both networks: stored, and at the peak; None where the system does not tell."""
    if not STATUS.exists() or not os.access(CLEAR, os.W_OK):
        return None
    float_model, binary = case.networks
    x, cost = case.batch(batch), case.cost
    binary_layers = [layer for layer in cost.layers if layer.binary_macs]
    with tempfile.TemporaryDirectory() as folder:
        paths = {"float": Path(folder) / "float.pt", "packed": Path(folder) / "packed.pt"}
        torch.save(float_model, paths["float"])
        torch.save(quantize.convert(binary, x), paths["packed"])
        batch_path, all_paths = Path(folder) / "batch.pt", list(paths.values())
        torch.save(x, batch_path)
        measured = {kind: _in_a_process([path, *all_paths], batch_path) for kind, path in paths.items()}
    return {
        "case": case.name,
        "batch": batch,
        "float": {"stored": cost.float_bytes, **measured["float"]},
        "packed": {"stored": cost.packed_bytes, **measured["packed"]},
        "binary_layers": {
            "float": sum(layer.float_bytes for layer in binary_layers),
            "packed": sum(layer.packed_bytes for layer in binary_layers),
        },
    }


def _in_a_process(models: list[Path], batch: Path) -> dict[str, int]:
    command = [sys.executable, "-m", "tools.benchmarking.sides.resident_memory", str(batch), *map(str, models)]
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, **TIDY}, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


if __name__ == "__main__":
    batch_path, measured_path, *other_paths = map(Path, sys.argv[1:])
    print(json.dumps(forward_peak(measured_path, other_paths, torch.load(batch_path))))
