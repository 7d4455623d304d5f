"""The machine's limits of xor + popcount + add, as sides: as many products as the problem has, in registers.

The loops are a small C++ file, compiled when it is needed with the system's compiler ($CXX, c++, g++ or clang++).
"""

import ctypes
import dataclasses
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
from ..side import Built, Side, Unavailable

SOURCE = Path(__file__).with_name("limit.cc")
BITS = 0x0123456789ABCDEF


@dataclasses.dataclass(frozen=True)
class Limit:
    """A loop of limit.cc: each step counts the ones of ``vectors`` vectors of words i ^ BITS, i < ``vectors``."""

    loop: str
    vectors: int
    bits: int  # of a vector
    needed: frozenset[str]
    lacks: str

    def steps(self, problem: Problem) -> int:
        return -(-problem.case.macs(len(problem.x)) // (self.vectors * self.bits))

    def build(self, problem: Problem, threads: int) -> Built:
        """One thread's; the answer is the number of ones that were counted."""
        if threads > 1:
            raise Unavailable("the limit is that of one thread")
        if not cpu_flags() >= self.needed:
            raise Unavailable(f"this processor has no {self.lacks}")
        loop, steps = getattr(_library(), self.loop), self.steps(problem)
        loop.argtypes, loop.restype = [ctypes.c_int64, ctypes.c_uint64], ctypes.c_uint64
        return Built(lambda: loop(steps, BITS))

    def expected(self, problem: Problem) -> Tensor:
        ones = sum((i ^ BITS).bit_count() for i in range(self.vectors))
        return torch.tensor(self.steps(problem) * self.bits // 64 * ones)


LIMITS = {
    "limit": ("xor + popcount + add limit", Limit(
        "xor_popcount_add", 8, 512, frozenset({"avx512f", "avx512_vpopcntdq"}), "AVX-512 popcount")),
    "limit_avx2": ("xor + nibble popcount limit, AVX2", Limit("xor_nibbles_add", 4, 256, frozenset({"avx2"}), "AVX2")),
    "limit_avx512bw": ("xor + nibble popcount limit, AVX-512BW", Limit(
        "xor_wide_nibbles_add", 4, 512, frozenset({"avx512bw"}), "AVX-512BW")),
}  # fmt: skip
LIMIT_SIDES = [Side(name, title, limit.build, limit.expected) for name, (title, limit) in LIMITS.items()]


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        raise Unavailable("no C++ compiler to build the loop with")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limit.so"
        subprocess.run([compiler, "-std=c++17", "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))
