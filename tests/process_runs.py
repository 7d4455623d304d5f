"""Runs in several processes at once, over gloo on the CPU."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.multiprocessing as mp

import training

ROOT = Path(__file__).resolve().parent.parent


def in_processes(count, work, folder, *args):
    """Call ``work(*args)`` in ``count`` processes that have joined, as torchrun would start them."""
    mp.spawn(_join_and_work, args=(count, str(folder), work, args), nprocs=count)


def _join_and_work(rank, count, folder, work, args):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    init = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda backend: init(
        backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count
    )
    with training.joined("") as part:
        work(*args)
        part()


def torchrun(*flags, cwd, output=subprocess.PIPE):
    """torchrun as a process that has begun; ``flags`` are its own, the script and the script's."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, flags)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)


@contextlib.contextmanager
def ended(*processes):
    """Leaves none of ``processes`` behind."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
