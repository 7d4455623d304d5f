"""tools/arm_cycles.py: the NEON kernel's inner loop, found in assembly and simulated by llvm-mca."""

import shutil
from pathlib import Path

import pytest

from tools import arm_cycles as tool
from tools.benchmarking import arm_cycles
from tools.benchmarking.arm_cycles import CORES, WAYS, Estimate
from tools.benchmarking.page import arm_page

ROOT = Path(__file__).resolve().parent.parent
A72, M1 = CORES[0], next(core for core in CORES if core.name == "apple-m1")

REPORT = """Iterations:        1000
Instructions:      59000
Total Cycles:      25018
Total uOps:        65000

Dispatch Width:    3
uOps Per Cycle:    2.60
IPC:               2.36
Block RThroughput: 25.0


Resources:
[0]   - A57UnitB
[1.0] - A57UnitI
"""

ASSEMBLY = """
_ZN2xk4neon8dot_tileEv:
.L1:
	mov	x0, x1
.L2:                                    // as clang writes comments
	ldp	q16, q7, [x0]
	and	v0.16b, v0.16b, v5.16b
	cnt	v0.16b, v0.16b
	cnt	v1.16b, v1.16b
	subs	x3, x3, #1
	b.ne	.L2
	.p2align 3
.L3:
	cnt	v2.16b, v2.16b
	add	v3.16b, v3.16b, v2.16b
	cnt	v4.16b, v4.16b
	cbnz	x4, .L3
	subs	x5, x5, 1
	bne	.L1
.L4:
	cnt	v2.8b, v2.8b
	bl	memcpy
	tbnz	w1, 3, .L4
"""


@pytest.fixture(scope="module")
def programs() -> tuple[str, str]:
    """The cross compiler and llvm-mca."""
    try:
        return arm_cycles.find_compiler(), arm_cycles.find_simulator()
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def estimates(programs) -> list[Estimate]:
    """Of every core."""
    return arm_cycles.estimate(*programs)


def test_a_report_is_read():
    assert arm_cycles.parse(REPORT) == arm_cycles.Simulation(25.018, 25.0, "Cortex-A57")
    with pytest.raises(ValueError, match="use LLVM 14 to 19"):
        arm_cycles.parse(REPORT.replace("Block RThroughput", "Throughput"))


def test_loops_without_a_label_inside_are_found_and_the_shortest_that_counts_most_is_the_kernels():
    loops = arm_cycles.innermost_loops(ASSEMBLY)
    assert [loop[-1].split()[0] for loop in loops] == ["b.ne", "cbnz", "tbnz"]
    assert [arm_cycles.products_of(loop) for loop in loops] == [256, 256, 64]
    assert arm_cycles.kernel_loop(ASSEMBLY) == loops[1]  # the other has an instruction for the mask
    with pytest.raises(ValueError, match="no innermost loop with a cnt"):
        arm_cycles.kernel_loop(ASSEMBLY.replace("cnt", "clz"))


def test_rates_are_products_a_cycle_and_the_share_is_that_of_the_limit():
    e = Estimate(A72, "eor, cnt, add", "Cortex-A57", cycles=25.0, products=2048, limit=256 / 3)
    assert e.rate == 81.92
    assert e.gmacs == pytest.approx(81.92 * 1.5)
    assert e.share == pytest.approx(0.96)
    header, (line,) = arm_page.loop_table([e])
    assert dict(zip(header, line, strict=True)) == {
        "core": "cortex-a72", "counting": "eor, cnt, add", "model": "Cortex-A57", "cycles": "25.0", "MACs": "2048",
        "MACs/cycle": "81.9", "limit": "85.3", "share": "96%", "GHz": "1.5, Raspberry Pi 4", "GMAC/s": "123",
        "Bi-Real ms": "13.6",  # 1.676 G over 122.88 G a second
    }  # fmt: skip


def test_the_binary_layers_of_bi_real_net_are_those_of_the_model():
    stages = [(64, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)]
    convolutions = [(a if i == 0 else b, b, side) for a, b, side in stages for i in range(4)]
    assert sum(a * b * 9 * side**2 for a, b, side in convolutions) == arm_page.BIREAL_MACS


def test_missing_programs_are_said_in_a_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("AARCH64_CXX", raising=False)
    monkeypatch.delenv("LLVM_MCA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.main([]) == 2
    assert capsys.readouterr().err == (
        "arm_cycles: error: aarch64-linux-gnu-g++ is not installed: install Debian's g++-aarch64-linux-gnu, or set "
        "AARCH64_CXX to one that is\n"
    )
    compiler = tmp_path / "aarch64-linux-gnu-g++"
    compiler.touch(mode=0o755)
    assert tool.main([]) == 2
    assert "llvm-mca is not installed: install Debian's llvm, or set LLVM_MCA" in capsys.readouterr().err
    monkeypatch.setenv("LLVM_MCA", "llvm-mca-99")
    with pytest.raises(ValueError, match="llvm-mca-99 is not installed"):
        arm_cycles.find_simulator()


def test_the_newest_simulator_is_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("LLVM_MCA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in ("", "-14", "-19"):
        (tmp_path / f"llvm-mca{version}").touch(mode=0o755)
    assert arm_cycles.find_simulator() == str(tmp_path / "llvm-mca-19")


def test_a_core_that_is_not_known_and_a_page_of_some_are_refused(capsys, tmp_path):
    assert tool.main(["--core", "cortex-a27"]) == 2
    assert "unknown core 'cortex-a27'" in (error := capsys.readouterr().err)
    assert "cortex-a72" in error
    assert tool.main(["--core", "cortex-a72", "--markdown", str(tmp_path / "page.md")]) == 2
    assert not (tmp_path / "page.md").exists()


def test_a_program_that_fails_is_said_in_a_sentence():
    with pytest.raises(ValueError, match=r"ls failed with exit code \d: .*nowhere"):
        arm_cycles.run([shutil.which("ls"), "/nowhere"])


def test_sources_that_are_not_there_are_said(monkeypatch, tmp_path):
    monkeypatch.setattr(arm_cycles, "SOURCES", tmp_path)
    with pytest.raises(ValueError, match="run it in a clone"):
        arm_cycles.estimate("c++", "llvm-mca")


def test_a_core_without_an_instruction_has_no_limit_of_it(programs):
    _, simulator = programs
    assert arm_cycles.limit_of(simulator, A72, WAYS["eor, cnt, udot"]) is None
    # Cyclone's three vector pipes, and three instructions for 128 bits, or five for 256.
    assert arm_cycles.limit_of(simulator, M1, WAYS["eor, cnt, udot"]) == 128
    assert arm_cycles.limit_of(simulator, M1, WAYS["eor, eor3, bsl, cnt, add"]) == pytest.approx(3 * 256 / 5)


def test_the_kernel_reaches_most_of_the_limit_of_every_core_and_never_more(estimates):
    assert {(e.core.name, e.way) for e in estimates} == {
        (core.name, way)
        for core in CORES
        for way in arm_cycles.KERNELS
        if not WAYS[way].needs or WAYS[way].needs in core.extensions
    }
    for e in estimates:
        assert e.products == 2 * 16 * 64  # two pixels by sixteen filters by a word
        assert 0.7 <= e.share <= 1, e


def test_the_tool_prints_what_is_simulated_and_writes_the_page(estimates, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(arm_cycles, "estimate", lambda _, __, cores: [e for e in estimates if e.core in cores])
    assert tool.main(["--core", "cortex-a72"]) == 0
    assert (out := capsys.readouterr().out).count("simulated: ") == 2
    assert "cortex-a72" in out
    assert "kryo" not in out
    assert tool.main(["--markdown", str(tmp_path / "arm.md")]) == 0
    page = (tmp_path / "arm.md").read_text()
    assert "LLVM version" in page
    assert all(f"| {core.name} | eor, cnt, add |" in page for core in CORES)


def test_the_kept_page_is_this_tools():
    page = (ROOT / "READMEs" / "performance" / "arm.md").read_text()
    sample = arm_page.page([], {}, "", "")
    tables = (
        "| core | counting",
        "| core | eor",
        "| larq compute-engine | 41.6 |",
        "| daBNN | 61.3 |",
        "| 64-64-3x3-56x56",
    )
    assert all(text in page and text in sample for text in tables)
    assert all(f"| {core.name} |" in page for core in CORES)
    for paragraph in (arm_page.LIMITS, arm_page.PUBLISHED):
        assert paragraph in page
