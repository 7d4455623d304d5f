"""Runs the worker, and again behind the mutant that killed it."""

import collections
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

WORKER = "fuzz_ort.worker"
# A mutant may ask for terabytes: the allocation fails then, as on a small machine.
SANITIZER = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=256:print_suppressions=0"


def _environment(library: str) -> dict[str, str]:
    """For a library with AddressSanitizer, its runtime and the C++ one (whose exceptions it watches) come first."""
    tests = str(Path(__file__).parent.parent)
    environment = {**os.environ, "ASAN_OPTIONS": SANITIZER, "PYTHONPATH": tests}
    if not shutil.which("ldd"):
        return environment
    needed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    loaded = [line.split()[2] for line in needed.splitlines() if "libasan" in line or "libstdc++" in line]
    if any("libasan" in path for path in loaded):
        environment["LD_PRELOAD"] = " ".join(sorted(loaded, key=lambda path: "libasan" not in path))
    return environment


def _lines(process: subprocess.Popen, limit: float):
    """The worker's lines as they come; TimeoutError where one takes longer than `limit` seconds."""
    buffer = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], limit)
        if not ready:
            raise TimeoutError
        block = os.read(process.stdout.fileno(), 65536)
        if not block:
            return
        *lines, buffer = (buffer + block).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)


def _session(directory: Path, library: str, first: int, end: int, limit: float):
    """One worker: yields (number, verdict) of each mutant, then ends; a crash or a hang is the last verdict."""
    command = [sys.executable, "-m", WORKER, str(directory), library, str(first), str(end)]
    with open(directory / "errors.txt", "wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=_environment(library))
    number, step, hangs = first, "start", False
    try:
        for line in _lines(process, limit):
            number, step = int(line.split()[0]), line.split(maxsplit=1)[1]
            if step not in ("kernels", "standard"):
                yield number, step
    except TimeoutError:
        hangs = True
    finally:
        process.kill()
        status = process.wait()
    if hangs or step in ("kernels", "standard", "start"):
        what = f"no end after {limit:.0f} s" if hangs else f"crash, exit status {status}"
        yield number, f"{what}, in the {step}: {_report(directory)}"


def _report(directory: Path) -> str:
    """What the sanitizer said, in a line."""
    text = (directory / "errors.txt").read_text(errors="replace").splitlines()
    return " | ".join([line.strip() for line in text if "ERROR" in line or " #" in line or "runtime error" in line][:6])


def fuzz(directory: Path, library: str, first: int, end: int, limit: float) -> tuple[dict[str, int], dict[int, str]]:
    """(how often each verdict, what happened to the mutants that failed)."""
    counts: dict[str, int] = collections.Counter()
    failures: dict[int, str] = {}
    start = time.monotonic()
    with tqdm(total=end - first, unit="mutant", disable=None) as progress:
        while first < end:
            for number, verdict in _session(directory, library, first, end, limit):
                progress.update(number + 1 - first)
                first = number + 1
                counts[verdict.split(":")[0] if verdict.startswith("WRONG") else verdict.split(",")[0]] += 1
                if verdict.startswith(("WRONG", "crash", "no end")):
                    failures[number] = verdict
    counts["seconds"] = round(time.monotonic() - start)
    return counts, failures
