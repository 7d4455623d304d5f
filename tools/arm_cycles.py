"""The NEON kernel's inner loop on ARM cores that are not at hand: simulated cycles, GMAC/s and share of the limit.

    python tools/arm_cycles.py                          every core
    python tools/arm_cycles.py --core cortex-a72        one of them
    python tools/arm_cycles.py --markdown FILE          write READMEs/performance/arm.md, with date and versions

Needs a C++ compiler for aarch64 (AARCH64_CXX, or aarch64-linux-gnu-g++) and llvm-mca (LLVM_MCA, or the newest that is
installed). Nothing is measured: caches, memory and all but the inner loop are left out.
Exit codes: 0 done, 2 something that cannot be used, or is not installed.
"""

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quantize.words import did_you_mean, format_table
from tools.benchmarking import arm_cycles
from tools.benchmarking.arm_cycles import CORES, WAYS, Core, Estimate
from tools.benchmarking.page import arm_page
from tools.command_line import exit_code, tool_parser


def parser() -> argparse.ArgumentParser:
    p = tool_parser(__doc__)
    names = ", ".join(core.name for core in CORES)
    p.add_argument("--core", nargs="+", default=[], metavar="NAME", help=f"default: all; {names}")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="write the page there, all cores")
    return p


def chosen(names: Sequence[str]) -> list[Core]:
    """The cores named, or all; ValueError with close names for an unknown one."""
    known = {core.name: core for core in CORES}
    for name in names:
        if name not in known:
            raise ValueError(f"unknown core {name!r}: {did_you_mean(name, known)}")
    return [known[name] for name in names] or list(CORES)


def tables(flags: argparse.Namespace) -> None:
    """Simulate, print, and write what the flags ask for. Raises ValueError or OSError, in one sentence."""
    if flags.markdown and flags.core:
        raise ValueError("--markdown writes the page of all cores; leave --core out")
    cores = chosen(flags.core)
    compiler, simulator = arm_cycles.find_compiler(), arm_cycles.find_simulator()
    estimates: list[Estimate] = arm_cycles.estimate(compiler, simulator, cores)
    limits = {core: {way: arm_cycles.limit_of(simulator, core, WAYS[way]) for way in WAYS} for core in cores}
    for title, (header, lines) in (
        ("simulated: the kernel's inner loop", arm_page.loop_table(estimates)),
        ("simulated: the limit of each way to count, products a cycle", arm_page.limit_table(limits)),
    ):
        print(f"\n{title}\n{format_table(header, lines, right=header[2:])}")
    if flags.markdown:
        versions = ", ".join(arm_cycles.version_of(program) for program in (simulator, compiler))
        flags.markdown.write_text(arm_page.page(estimates, limits, versions, datetime.date.today().isoformat()))
        print(f"wrote {flags.markdown}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    flags = parser().parse_args(argv)
    return exit_code("arm_cycles", lambda: tables(flags))


if __name__ == "__main__":
    sys.exit(main())
