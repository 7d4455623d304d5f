"""Every Python block of the README and the guides runs, top to bottom, in one namespace a file; every
command line of the trainer and of the tools parses."""

import argparse
import ast
import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from models import registry
from quantize import scheme
from training.config import TrainConfig, parse_flags

ROOT = Path(__file__).parent.parent
OTHER_TRAINERS = ("lightning", "transformers")
PAGES = [ROOT / "README.md", *sorted((ROOT / "READMEs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "READMEs").mkdir()
    (tmp_path / "READMEs" / "images").symlink_to(ROOT / "READMEs" / "images")
    registers_its_own(monkeypatch)
    namespace, left_out = {"__name__": page.stem}, set()
    for block in blocks(page, "python"):
        if absent := missing_trainers(block):
            left_out |= absent
        else:
            exec(compile(block, page.name, "exec"), namespace)
    if left_out:  # after all others have run
        pytest.skip(f"blocks need {', '.join(sorted(left_out))}, of the extra dev, which is not installed")


def test_the_first_prediction_is_what_the_picture_shows(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (block,) = [block for block in blocks(ROOT / "README.md", "python") if "car.png" in block]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "automobile\n"


def registers_its_own(monkeypatch) -> None:
    """What guides register does not outlive the test."""
    for module in (scheme, registry):
        monkeypatch.setattr(module, "_REGISTRY", dict(module._REGISTRY))


def own_files(folder: Path) -> dict[str, str]:
    """Blocks that begin with the name of a file, "# my_network.py", written there: name -> path."""
    named = [(re.match(r"# (\w+\.py)\n", block), block) for page in PAGES for block in blocks(page, "python")]
    files = {match[1]: folder / match[1] for match, _ in named if match}
    for match, block in named:
        if match:
            files[match[1]].write_text(block)
    return {name: str(path) for name, path in files.items()}


def missing_trainers(block: str) -> set[str]:
    """Those of ``OTHER_TRAINERS`` that a block imports and that are not installed."""
    imported = {name for name in OTHER_TRAINERS if re.search(rf"^(?:import|from) {name}\b", block, re.MULTILINE)}
    return {name for name in imported if importlib.util.find_spec(name) is None}


def shell_text() -> list[tuple[str, str]]:
    return [(page.name, "\n".join(blocks(page, "(?:bash|console)?"))) for page in PAGES]


def trainer_lines() -> list[tuple[str, str]]:
    text = shell_text()
    text.append(("trainer_exp.py", (ROOT / "trainer_exp.py").read_text().split('"""')[1].replace("\\\\\n", " ")))
    pattern = re.compile(r"^.*?(?:python|torchrun.*?) trainer_exp\.py (.*?)(?<!\\)$", re.MULTILINE | re.DOTALL)
    return [(name, line.replace("\\\n", " ")) for name, body in text for line in pattern.findall(body)]


@pytest.mark.parametrize(("page", "line"), trainer_lines())
def test_trainer_command_lines_parse(page, line, tmp_path, monkeypatch):
    registers_its_own(monkeypatch)
    flags = parse_flags(shlex.split(line, comments=True))
    files = own_files(tmp_path)
    flags.update({"imports": [files.get(name, name) for name in flags["imports"]]} if "imports" in flags else {})
    if "resume" not in flags and "evaluate" not in flags:
        TrainConfig.create(**flags)


def tool_lines() -> list[tuple[str, str]]:
    pattern = re.compile(r"^(?:\$ | *)python (tools/\S.*?)(?<!\\)$", re.MULTILINE | re.DOTALL)
    lines = [(name, line.replace("\\\n", " ")) for name, body in shell_text() for line in pattern.findall(body)]
    for path in [*(ROOT / "tools").glob("*.py"), *(ROOT / "tools" / "moving_objects").glob("*.py")]:
        usage = (ast.get_docstring(ast.parse(path.read_text())) or "").replace("\\\n", " ")
        lines += [(path.name, re.sub(r"  +\S.*", "", line)) for line in pattern.findall(usage)]
    return lines


class Parsed(BaseException):
    """Ends a program when its flags are understood."""


@pytest.mark.parametrize(("page", "line"), tool_lines())
def test_tool_command_lines_parse(page, line, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *args, **kwargs):
        raise Parsed(parse(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    tool, *flags = shlex.split(line.split(" > ")[0], comments=True)
    monkeypatch.setattr(sys, "argv", [tool, *flags])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / tool), run_name="__main__")


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
