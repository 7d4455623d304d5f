"""The machine's limit of xor + popcount + add, as a side: as many products as the problem has, in registers.

The loop is a small C++ file, compiled when it is needed with the system's compiler ($CXX, c++, g++ or clang++).
"""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..cases import Problem
from ..machine import cpu_flags
from ..side import Built, Unavailable

SOURCE = Path(__file__).with_name("limit.cc")
PRODUCTS_A_STEP = 8 * 512
BITS = 0x0123456789ABCDEF
NEEDED = {"avx512f", "avx512_vpopcntdq"}


@functools.cache
def _loop() -> ctypes._CFuncPtr:
    if not cpu_flags() >= NEEDED:
        raise Unavailable("this processor has no AVX-512 popcount")
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        raise Unavailable("no C++ compiler to build the loop with")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        subprocess.run([compiler, "-std=c++17", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(library)], check=True)
        loop = ctypes.CDLL(str(library)).xor_popcount_add
    loop.argtypes, loop.restype = [ctypes.c_int64, ctypes.c_uint64], ctypes.c_uint64
    return loop


def _steps(problem: Problem) -> int:
    return -(-problem.case.macs(len(problem.x)) // PRODUCTS_A_STEP)


def build_limit(problem: Problem, threads: int) -> Built:
    """One thread's; the answer is the number of ones that were counted."""
    if threads > 1:
        raise Unavailable("the limit is that of one thread")
    loop, steps = _loop(), _steps(problem)
    return Built(lambda: loop(steps, BITS))


def expected_ones(problem: Problem) -> Tensor:
    """Of eight vectors of words i ^ BITS, i < 8, each step."""
    return torch.tensor(_steps(problem) * 8 * sum((i ^ BITS).bit_count() for i in range(8)))
