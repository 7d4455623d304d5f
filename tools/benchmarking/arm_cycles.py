"""Cycles of the NEON kernel's inner loop on ARM cores that are not at hand: simulated by llvm-mca, not measured.

The kernel is compiled to assembly, its innermost loop with the most popcounts is cut out, and llvm-mca runs that on a
core's scheduling model: pipes, latencies, widths, all data in the nearest cache. The limit beside it is what the same
model gives for xor, count and add alone, each in registers of its own and without loads.
"""

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "quantize" / "csrc"
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=off", f"-I{SOURCES}")  # as setup.py builds it
ITERATIONS = 1000
VECTOR_BITS = 128
NEWEST_LLVM, OLDEST_LLVM = 30, 14  # of those installed as llvm-mca-19


@dataclasses.dataclass(frozen=True)
class Core:
    """``name`` as llvm-mca has it; ``clock`` in GHz, that of ``device``; ``extensions`` of the instruction set."""

    name: str
    clock: float
    device: str
    extensions: frozenset[str] = frozenset()


DOT, XOR3 = "dotprod", "sha3"
CORES = (
    Core("cortex-a72", 1.5, "Raspberry Pi 4"),
    Core("cortex-a76", 2.4, "Raspberry Pi 5", frozenset({DOT})),
    Core("neoverse-n1", 2.5, "AWS Graviton2", frozenset({DOT})),
    Core("apple-m1", 3.2, "Mac mini, fast core", frozenset({DOT, XOR3})),
    Core("kryo", 1.6, "Pixel 1"),
)
# What a resource of a model is called by, up to "Unit": LLVM lends several cores the model of a relative.
MODELS = {"A57": "Cortex-A57", "Cy": "Apple Cyclone", "N1": "Neoverse N1", "Kryo": "Kryo"}


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to count bits: the least instructions for ``products`` of them, loads and broadcasts left out.

    {a}, {b} and {c} stand for registers that are only written; ``needs`` is an extension, or empty.
    """

    products: int
    instructions: tuple[str, ...]
    needs: str = ""


XOR, COUNT, ADD = "eor v{a}.16b, v0.16b, v1.16b", "cnt v{b}.16b, v2.16b", "add v{c}.16b, v3.16b, v4.16b"
WAYS = {
    "eor, cnt, add": Way(VECTOR_BITS, (XOR, COUNT, ADD)),
    "eor, cnt, udot": Way(VECTOR_BITS, (XOR, COUNT, "udot v{c}.4s, v3.16b, v4.16b"), DOT),
    # A full adder over chains of words (form_chains in arch/microkernels.h): its sum bit is the xor of two words of the
    # chains; what chooses its carry, the xor of three; then one popcount for two words.
    "eor, eor3, bsl, cnt, add": Way(
        2 * VECTOR_BITS,
        (XOR, "eor3 v{b}.16b, v2.16b, v3.16b, v4.16b", "bsl v{a}.16b, v3.16b, v4.16b", COUNT, ADD),
        XOR3,
    ),
    # As arch/nibbles.inc: a look-up has 4 products of 16 filters with two pixels; three add up in half a byte.
    "3 tbl, 3 add, usra": Way(
        3 * VECTOR_BITS, ("tbl v{a}.16b, {{v0.16b}}, v1.16b",) * 3 + (ADD,) * 3 + ("usra v{b}.16b, v3.16b, #4",)
    ),
}
# How the kernel counts -> what it is compiled with beside FLAGS, where not for every aarch64.
KERNELS = {"eor, cnt, add": (), "eor, cnt, udot": ("-march=armv8.2-a+dotprod",)}


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Of one block of instructions: cycles an iteration, the bound of its busiest pipe, and whose model it was."""

    cycles: float
    bound: float
    model: str


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The kernel's loop on a core; ``limit`` in products a cycle."""

    core: Core
    way: str
    model: str
    cycles: float  # an iteration
    products: int  # an iteration
    limit: float

    @property
    def rate(self) -> float:
        """Products (multiply-adds) a cycle."""
        return self.products / self.cycles

    @property
    def gmacs(self) -> float:
        """Billions of multiply-adds a second, at the clock of the core's device."""
        return self.rate * self.core.clock

    @property
    def share(self) -> float:
        """Of the limit, at most 1."""
        return self.rate / self.limit


def find_program(variable: str, names: Iterable[str], package: str) -> str:
    """The program that the environment's ``variable`` names, or the first of ``names`` that is installed.

    Raises ValueError that says what to install.
    """
    wanted = os.environ.get(variable)
    names = [wanted] if wanted else list(names)
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise ValueError(f"{names[-1]} is not installed: install {package}, or set {variable} to one that is")
    return found


def find_compiler() -> str:
    """A C++ compiler for aarch64: AARCH64_CXX, or Debian's."""
    return find_program("AARCH64_CXX", ["aarch64-linux-gnu-g++"], "Debian's g++-aarch64-linux-gnu")


def find_simulator() -> str:
    """llvm-mca: LLVM_MCA, or the newest that is installed."""
    versions = [f"llvm-mca-{version}" for version in range(NEWEST_LLVM, OLDEST_LLVM - 1, -1)]
    return find_program("LLVM_MCA", [*versions, "llvm-mca"], "Debian's llvm")


def version_of(program: str) -> str:
    """The line of ``program --version`` that has a number."""
    lines = run([program, "--version"]).splitlines()
    return next(line.strip() for line in lines if re.search(r"\d+\.\d+", line))


def run(command: Sequence[str], text: str = "") -> str:
    """What the command prints, given ``text``. Raises ValueError with its first complaint."""
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        complaint = next(iter(done.stderr.splitlines()), "no message")
        raise ValueError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {complaint}")
    return done.stdout


def innermost_loops(assembly: str) -> list[list[str]]:
    """The instructions of each loop without a label inside, its branch back included."""
    loops, label, body = [], None, []
    for line in assembly.splitlines():
        code = line.split("//")[0].strip()
        if match := re.fullmatch(r"([.\w]+):", code):
            label, body = match[1], []
        elif code and not code.startswith("."):
            body.append(code)
            if re.fullmatch(r"(b|b\.?[a-z]{2}|cbn?z|tbn?z)\s.*", code) and re.split(r"[\s,]+", code)[-1] == label:
                loops.append(list(body))
    return loops


def products_of(loop: Iterable[str]) -> int:
    """Multiply-adds of an iteration: the bits that it counts, 128 or 64 an instruction."""
    return sum(8 * int(match[1]) for code in loop if (match := re.match(r"cnt\s+v\d+\.(16|8)b", code)))


def kernel_loop(assembly: str) -> list[str]:
    """The loop that counts most bits, and of such the shortest, which is the one without a mask. Raises ValueError."""
    loops = [loop for loop in innermost_loops(assembly) if products_of(loop)]
    if not loops:
        raise ValueError("the assembly has no innermost loop with a cnt instruction: the kernel was not compiled")
    return max(loops, key=lambda loop: (products_of(loop), -len(loop)))


def parse(report: str) -> Simulation:
    """What llvm-mca reports of a block. Raises ValueError where that has another form."""
    iterations = re.search(r"^Iterations:\s+(\d+)", report, re.M)
    cycles = re.search(r"^Total Cycles:\s+(\d+)", report, re.M)
    bound = re.search(r"^Block RThroughput:\s+([\d.]+)", report, re.M)
    unit = re.search(r"^\[[\d.]+\]\s+-\s+(\w+?)Unit", report, re.M)
    if not (iterations and cycles and bound and unit):
        raise ValueError("llvm-mca's report has no iterations, cycles, throughput or resources: use LLVM 14 to 19")
    return Simulation(int(cycles[1]) / int(iterations[1]), float(bound[1]), MODELS.get(unit[1], unit[1]))


def simulate(simulator: str, core: Core, instructions: Iterable[str]) -> Simulation:
    """The instructions over and over on the core."""
    command = [simulator, "-mtriple=aarch64", f"-mcpu={core.name}", f"-iterations={ITERATIONS}"]
    command += [f"-mattr={','.join(f'+{name}' for name in sorted(core.extensions))}"] if core.extensions else []
    return parse(run(command, "\n".join(instructions) + "\n"))


def limit_of(simulator: str, core: Core, way: Way) -> float | None:
    """Products a cycle that the core's pipes allow; None where it lacks an instruction.

    From the bound of the busiest pipe, many copies at once, since llvm-mca rounds it to a tenth of a cycle.
    """
    if way.needs and way.needs not in core.extensions:
        return None
    copies = 24
    block = [code.format(a=8 + i % 8, b=16 + i % 8, c=24 + i % 8) for i in range(copies) for code in way.instructions]
    return copies * way.products / simulate(simulator, core, block).bound


def estimate(compiler: str, simulator: str, cores: Iterable[Core] = CORES) -> list[Estimate]:
    """The kernel on each core, counted in each way that it has and the core can. Raises ValueError."""
    source = SOURCES / "arch" / "neon.cc"
    if not source.is_file():
        raise ValueError(f"{source} does not exist: run it in a clone, since an installed package has no sources")
    command = [compiler, *FLAGS, "-S", str(source), "-o", "-"]
    loops = {way: kernel_loop(run([*command, *more])) for way, more in KERNELS.items()}
    found = []
    for core in cores:
        for way, loop in loops.items():
            if limit := limit_of(simulator, core, WAYS[way]):
                result = simulate(simulator, core, loop)
                found.append(Estimate(core, way, result.model, result.cycles, products_of(loop), limit))
    return found
