"""Every link of the README, the guides and the notebooks, as they stand in the repository: files and headings exist."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "READMEs").glob("*.md")),
    *sorted((ROOT / "tools").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]
CODE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"")


def text_of(page: Path) -> str:
    """Markdown without its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return CODE.sub(lambda code: "" if code[1] else code[0].strip("`").replace("](", ""), text)


def anchors(page: Path) -> set[str]:
    """Of its headings, as repositories' pages name them; a name that comes again gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *#*$", text_of(page), re.MULTILINE):
        words = re.sub(r"\]\([^)]*\)", "", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", name) is not None for name in found)
        found.append(f"{slug}-{again}" if again else slug)
    return set(found)


def links(page: Path) -> list[str]:
    return [link for pair in LINK.findall(text_of(page)) for link in pair if link and ":" not in link.split("#")[0]]


def broken(page: Path, link: str) -> str | None:
    """What is wrong with a link, or None."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{link}: there is no such file"
    if anchor and anchor not in anchors(target):
        return f"{link}: no such heading; valid: {', '.join(sorted(anchors(target)))}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    assert not [problem for link in links(page) if (problem := broken(page, link))]


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# One & two\n\n[a](#one--two) [b](page.md#part-1) [c](#part-2) [d](gone.md) [e](https://example.org/x)\n"
        "![f](../f.png) `[g](gone.md)`\n\n```\n# no heading\n[h](gone.md)\n```\n\n## `part`\n\n## Part\n"
    )
    assert [link for link in links(page) if broken(page, link)] == ["#part-2", "gone.md", "../f.png"]
