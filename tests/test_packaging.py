"""What ``pip install`` brings, built from this tree and tried outside of it: the sdist, the wheel with the library and
without, with an extra and without, the console scripts, and the library in C.
"""

import configparser
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from installed_wheels import ROOT, build_sdist, build_wheel, make_environment, run
from packaging.requirements import Requirement
from torch import nn

import quantize
from tools.web.runtime import FILES as RUNTIME_FILES
from training import installed

SCRIPTS = ("xnorkit-train", "xnorkit-evaluate", "xnorkit-export", "xnorkit-convert", "xnorkit-benchmark")

# A network from nothing to an answer in onnxruntime, in the current folder; with what the base installation has.
TOOLKIT = """
import sys, warnings, torch
import models, quantize
from quantize import kernels

torch.manual_seed(0)
x = torch.randn(4, 1, 28, 28)
model = quantize.prepare(models.create_model("lenet5_xnornet"), "xnor", x)
optimizer = torch.optim.Adam(quantize.param_groups(model, 1e-4))
torch.nn.functional.cross_entropy(model(x), torch.tensor([1, 2, 3, 4])).backward()
optimizer.step()
model.eval()
print(*quantize.summary(model, x).ptflops_lines())
packed = quantize.convert(model, x)
torch.save(packed.state_dict(), "net.pt")
print(quantize.export_onnx(model, "net.onnx", x))
logits = quantize.ort_session("net.onnx").run(None, {"input": x.numpy()})[0]
assert torch.allclose(torch.from_numpy(logits), model(x), atol=1e-4)
print(*kernels.available_kernels(), sep=",")
print(quantize.__file__)
"""


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build_sdist(tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def base(wheel, tmp_path_factory):
    """Programs of an environment with what ``pip install xnorkit`` installs."""
    return make_environment(tmp_path_factory.mktemp("base"), wheel)


@pytest.fixture(scope="module")
def trained(wheel, tmp_path_factory):
    """Programs of an environment with ``xnorkit[train]``, and a run that its trainer has made."""
    programs = make_environment(tmp_path_factory.mktemp("train"), wheel, "train")
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--arch", "lenet5_xnornet", "--dataset", "digits", "--epochs", "1", "--gpu", "", "--log-path", "run"]
    out = run([programs / "xnorkit-train", *flags], cwd=folder)
    assert "best_acc1: " in out
    return programs, folder


def files_under(folder: Path, *patterns: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.rglob(pattern)}


def test_the_sdist_has_all_sources(sdist):
    for folder, patterns in (("quantize/csrc", ("*.*",)), ("quantize", ("*.py",)), ("training", ("*.py", "*.txt"))):
        assert files_under(sdist / folder, *patterns) == files_under(ROOT / folder, *patterns)


def test_the_wheel_has_three_packages_and_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"quantize", "models", "xnorkit"}
    data = {"quantize/py.typed", "quantize/csrc/xnorkit.h", "quantize/cmake/xnorkit-config.cmake"}
    data |= {f"models/weights/{path.name}" for path in (ROOT / "models" / "weights").glob("*")}
    data |= {f"xnorkit/training/recipes/{path.name}" for path in (ROOT / "training" / "recipes").glob("*.txt")}
    data |= {f"xnorkit/tools/web/page/{path.name}" for path in (ROOT / "tools" / "web" / "page").iterdir()}
    data |= {"xnorkit/trainer_exp.py", "xnorkit/tools/moving_objects/__main__.py", "xnorkit/tools/report.py"}
    assert data <= names
    assert len([name for name in names if re.match(r"quantize/libxnorkit\.\w+$", name)]) == 1
    assert not {"xnorkit/tools/constraints.py", "xnorkit/tools/sweep_models.py"} & names


def test_the_base_installation_runs_the_toolkit_on_the_kernels(base, tmp_path):
    out = run([base / "python", "-c", TOOLKIT], cwd=tmp_path)
    assert ",scalar" in out
    assert "was not built" not in out
    assert str(base.parent) in out.splitlines()[-1]


def test_without_a_compiler_the_wheel_has_no_library_and_warns(sdist, tmp_path):
    nothing = str(tmp_path / "no-compiler")
    wheel = build_wheel(sdist, tmp_path / "wheel", CC=nothing, CXX=nothing)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "libxnorkit" in name]
    programs = make_environment(tmp_path / "environment", wheel)
    out = run([programs / "python", "-c", TOOLKIT], cwd=tmp_path)
    assert "was not built (no C++ compiler when xnorkit was installed?)" in out
    assert "\nreference" in out
    assert "scalar" not in out


def started(*commands: str) -> str:
    """Code that starts console scripts one after the other in one process, and prints exit codes; torch loads once."""
    return f"""
import importlib.metadata, shlex, sys
scripts = {{script.name: script for script in importlib.metadata.entry_points(group="console_scripts")}}
for command in {commands!r}:
    sys.argv = shlex.split(command)
    print("==>", command, flush=True)
    try:
        code = scripts[sys.argv[0]].load()()
    except SystemExit as end:
        code = end.code
    sys.stderr.flush()
    print("exit code", code, flush=True)
"""


def outputs(said: str) -> list[str]:
    """What each of the scripts of :func:`started` printed, without its command."""
    return [part.partition("\n")[2] for part in said.split("==> ")[1:]]


def test_help_needs_no_extra_and_names_the_scripts(base, tmp_path):
    assert {path.name for path in base.glob("xnorkit-*")} == set(SCRIPTS)
    said = outputs(run([base / "python", "-c", started(*(f"{script} --help" for script in SCRIPTS))], cwd=tmp_path))
    for script, out in zip(SCRIPTS, said, strict=True):
        assert out.startswith(f"usage: {script} ")
        assert out.endswith("exit code 0\n")
        assert re.search(rf"^ +{script} ", out, re.MULTILINE)
        assert not re.search(r"trainer_exp\.py|tools/\w+\.py", out)


def test_the_trainers_help_and_refusals_do_not_wait_for_torch(base, tmp_path):
    code = started("xnorkit-train --help", "xnorkit-train --epoch 1") + "print('torch' in sys.modules)"
    said = run([base / "python", "-c", code], cwd=tmp_path)
    assert "exit code 0\n" in said
    assert "xnorkit-train: error: unrecognized arguments: --epoch 1; see --help\n" in said
    assert "exit code 2\nFalse\n" in said


def test_a_missing_extra_is_named_in_one_sentence(base, tmp_path):
    quantize.export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), tmp_path / "net.onnx", torch.zeros(1, 1, 8, 8))
    commands = {
        "xnorkit-train --dataset digits --gpu ''": "scikit-learn",
        "xnorkit-train --arch timm/resnet18 --dataset digits --gpu ''": "timm",
        "xnorkit-evaluate net.onnx --dataset mnist --data-dir .": "torchvision",
        "xnorkit-benchmark --shape 192-192-3x3-8x8 --batch 1": "tqdm",
    }
    said = outputs(run([base / "python", "-c", started(*commands)], cwd=tmp_path))
    for package, out in zip(commands.values(), said, strict=True):
        *_, line, code = out.splitlines()
        assert re.fullmatch(rf"\S+: error: .*{package}, which is not installed: pip install 'xnorkit\[train\]'", line)
        assert code == "exit code 2"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_opencv_is_named_where_it_is_missing(base, tmp_path):
    out = run([base / "python", "-m", "xnorkit.tools.moving_objects", "--video", "x.avi"], cwd=tmp_path, code=2)
    fix = "pip install 'xnorkit[video]'"
    assert out == f"moving_objects: error: this needs opencv-python-headless, which is not installed: {fix}\n"


def test_what_the_trainer_makes_is_converted_exported_evaluated_and_loaded(trained):
    programs, folder = trained
    code = started("xnorkit-convert run", "xnorkit-export run", "xnorkit-evaluate run/model.onnx")
    code += "from xnorkit.training import load_model; print(load_model('run/packed.pt')[1].arch)"
    converted, exported, evaluated = outputs(run([programs / "python", "-c", code], cwd=folder))
    assert "smaller than" in converted
    assert "model.onnx: " in exported
    assert "test images of digits" in evaluated
    assert evaluated.endswith("lenet5_xnornet\n")


def test_a_run_says_how_it_was_started(trained):
    _, folder = trained
    assert '"command": "xnorkit-train --arch lenet5_xnornet' in (folder / "run" / "log.jsonl").read_text()


def test_the_benchmark_runs_without_a_clone_and_writes_no_guides(trained):
    programs, folder = trained
    shape = "--shape 192-192-3x3-8x8 --batch 1 --threads 1 --rounds 1 --json figures.json"
    code = started("xnorkit-benchmark --keep", f"xnorkit-benchmark {shape}")
    refused, measured = outputs(run([programs / "python", "-c", code], cwd=folder))
    assert "--keep and --report write to the guides of a clone" in refused
    assert "192-192-3x3-8x8" in measured
    assert measured.endswith("exit code 0\n")
    assert '"command": "xnorkit-benchmark --shape' in (folder / "figures.json").read_text()


def test_a_page_for_browsers_needs_no_clone(trained, tmp_path):
    programs, _ = trained
    for name in RUNTIME_FILES:
        (tmp_path / name).touch()
    command = [programs / "python", "-m", "xnorkit.tools.export_web", "lenet5_xnornet", "page", "--pretrained", "mnist"]
    assert "our kernels compute 2 of its nodes" in run([*command, "--runtime", "."], cwd=tmp_path)
    assert (tmp_path / "page" / "kernels.wasm").read_bytes()[:4] == b"\0asm"


PROGRAM = """
#include <stdio.h>
#include <xnorkit.h>
int main(void) { return printf("kernel %s\\n", xk_kernel_name(0)) < 0; }
"""
CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(program C)
find_package(xnorkit REQUIRED CONFIG PATHS ${XNORKIT_PACKAGE}/cmake NO_DEFAULT_PATH)
add_executable(program program.c)
target_link_libraries(program PRIVATE xnorkit::xnorkit)
message(STATUS "library ${XNORKIT_LIBRARY}")
"""


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_a_c_program_finds_the_installed_library(base, tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (package,) = (base.parent / "lib").glob("python*/site-packages/quantize")
    said = run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DXNORKIT_PACKAGE={package}"])
    assert f"library {package}/libxnorkit." in said
    run(["cmake", "--build", tmp_path / "build"])
    assert "kernel scalar" in run([tmp_path / "build" / "program"])


# What stands in for a clone's names and packages.


def test_every_package_of_an_extra_is_known_by_its_name():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = {
        (Requirement(line).name, extra)
        for extra in ("train", "video", "bench")
        for line in setup["options.extras_require"][extra].split("\n")
        if line and not line.startswith("xnorkit")
    }
    assert set(installed._EXTRAS.values()) == wanted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    python trainer_exp.py --arch nin", "    xnorkit-train --arch nin"),
        ("one of tools/convert.py", "one of xnorkit-convert"),
        ("python tools/export_onnx.py runs/NAME", "xnorkit-export runs/NAME"),
        ("python tools/report.py runs/*", "python -m xnorkit.tools.report runs/*"),
        ("    python tools/moving_objects --video x", "    python -m xnorkit.tools.moving_objects --video x"),
        ("continue it with trainer_exp.py --resume", "continue it with xnorkit-train --resume"),
        ("torchrun --nproc_per_node 8 trainer_exp.py --x", "torchrun --nproc_per_node 8 --no-python xnorkit-train --x"),
        ("torchrun --id NAME \\\n    trainer_exp.py", "torchrun --id NAME \\\n    --no-python xnorkit-train"),
        ("torchrun --x\n    python trainer_exp.py", "torchrun --x\n    xnorkit-train"),
        ("/home/me/tools/convert.py", "/home/me/tools/convert.py"),
    ],
)
def test_programs_are_named_as_one_calls_them(text, expected):
    assert installed.as_called(text, in_clone=False) == expected
    assert installed.as_called(text, in_clone=True) == text


def test_other_missing_modules_are_bugs():
    assert installed.missing_extra(ModuleNotFoundError("no", name="quantize.nowhere")) is None
    assert "pillow" in installed.missing_extra(ModuleNotFoundError("no", name="PIL.Image"))
