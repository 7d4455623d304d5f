"""Every Python block of the README and the guides runs, top to bottom, in one namespace a file; every
command line of the trainer parses."""

import re
import shlex
from pathlib import Path

import pytest

from quantize import scheme
from training.config import TrainConfig, parse_flags

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "READMEs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scheme, "_REGISTRY", dict(scheme._REGISTRY))  # guides register schemes of their own
    namespace = {"__name__": page.stem}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), namespace)


def trainer_lines() -> list[tuple[str, str]]:
    text = [(page.name, "\n".join(blocks(page, "(?:bash|console)?"))) for page in PAGES]
    text.append(("trainer_exp.py", (ROOT / "trainer_exp.py").read_text().split('"""')[1].replace("\\\\\n", " ")))
    pattern = re.compile(r"^.*?python trainer_exp\.py (.*?)(?<!\\)$", re.MULTILINE | re.DOTALL)
    return [(name, line.replace("\\\n", " ")) for name, body in text for line in pattern.findall(body)]


@pytest.mark.parametrize(("page", "line"), trainer_lines())
def test_trainer_command_lines_parse(page, line):
    flags = parse_flags(shlex.split(line, comments=True))
    if "resume" not in flags and "evaluate" not in flags:
        TrainConfig.create(**flags)


def test_links_between_pages_exist():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
