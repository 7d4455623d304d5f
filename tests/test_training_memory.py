"""The peak of memory that a run's log records."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.watch import environment as memory

MIB = 2**20


@pytest.mark.skipif(not memory.STATUS.exists(), reason="no /proc here")
def test_the_peak_stays_when_memory_is_given_back():
    allocated = 200 * MIB
    child = (
        "import resource, torch; from training.watch.environment import peak_resident_memory as peak; "
        "held = int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize(); "
        f"x = torch.ones({allocated}, dtype=torch.uint8); del x; print(held, peak())"
    )
    root = Path(memory.__file__).parent.parent.parent
    run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True, cwd=root)
    held, peak = map(int, run.stdout.split())
    assert held > MIB
    assert peak == pytest.approx(held + allocated, abs=16 * MIB)


def test_without_the_status_file_it_is_what_getrusage_tells(monkeypatch, tmp_path):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    unit = 1 if sys.platform == "darwin" else 1024
    assert memory.peak_resident_memory() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory.peak_resident_memory() is None


def test_a_cpu_run_has_no_memory_on_a_device():
    assert memory.peak_memory(torch.device("cpu"))["device"] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_the_tensors_count():
    device = torch.device("cuda", 0)
    x = torch.ones(64 * MIB, dtype=torch.uint8, device=device)
    del x
    assert memory.peak_memory(device)["device"] >= 64 * MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
@pytest.mark.parametrize(("variable", "kept"), [(None, True), ("MALLOC_ARENA_MAX", False)])
def test_freed_memory_is_kept_unless_the_user_has_set_malloc(variable, kept):
    """By the page faults of writing a large tensor again, in a process of its own."""
    child = (
        "from training.watch.environment import keep_freed_memory; print(keep_freed_memory())\n"
        "import resource, torch, training.engine\n"  # as the trainer does, and with its heap
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "write = lambda: torch.ones(64 * 2**20, dtype=torch.uint8)\n"
        "[write() for _ in range(3)]; before = faults(); write(); print(faults() - before)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    env |= {variable: "4"} if variable else {}
    root = Path(memory.__file__).parent.parent.parent
    run = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True, cwd=root, env=env)
    answer, faults = run.stdout.split()
    assert answer == str(kept)
    assert (int(faults) < 100) is kept
