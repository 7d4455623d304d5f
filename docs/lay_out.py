"""Lay out the pages of the site as the repository is, so that one relative link serves both.

    python docs/lay_out.py              into build/docs, from which `make docs` builds the site

Site generators read one folder. Into it go the README, the guides, the notebooks (as Markdown, with the outputs that
they keep) and the pages of docs/pages, each in the place that it has in the repository; and then whatever these link
to: another page, a folder as a page that lists its files, any other file as it is. A link to nothing stays as it is,
for the generator to complain about.
"""

import argparse
import posixpath
import re
import shutil
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "READMEs/*.md", "notebooks/*.ipynb")
OF_THE_SITE = ROOT / "docs" / "pages"
CODE = re.compile(r"^(`{3,}).*?^\1$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def lay_out(folder: Path) -> None:
    """Write all pages into ``folder``, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(OF_THE_SITE, folder)
    waiting = sorted(path.relative_to(ROOT).as_posix() for pattern in PAGES for path in ROOT.glob(pattern))
    known = set(waiting)
    while waiting:
        name = waiting.pop()
        uri = folder / page_uri(name)
        uri.parent.mkdir(parents=True, exist_ok=True)
        if uri.suffix == ".md":
            markdown = _markdown(ROOT / name, uri)
            uri.write_text(to_pages(name, markdown), encoding="utf-8")
            new = linked(name, markdown) - known
            known |= new
            waiting += sorted(new)
        else:
            shutil.copyfile(ROOT / name, uri)


def page_uri(name: str) -> str:
    """Where in the laid out folder a file or folder of the repository stands, from the root of both."""
    if name == "README.md":
        return "index.md"
    return f"{name}/index.md" if (ROOT / name).is_dir() else re.sub(r"\.ipynb$", ".md", name)


def linked(name: str, markdown: str) -> set[str]:
    """The files and folders of the repository that page ``name`` links to, by their paths from its root."""
    found = set()
    outside_code(markdown, lambda text: found.update(LINK.findall(text)) or text)
    paths = {posixpath.normpath(posixpath.join(posixpath.dirname(page_uri(name)), target)) for target in found}
    return {path for path in paths if not path.startswith("..") and (ROOT / path).exists()}


def to_pages(name: str, markdown: str) -> str:
    """Page ``name`` with links that lead to the pages made of what they name."""
    here = posixpath.dirname(page_uri(name))

    def changed(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, link[1]))
        return link[1] if page_uri(path) == path else posixpath.relpath(page_uri(path), here or ".")

    return outside_code(markdown, lambda text: LINK.sub(changed, text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """``markdown`` with ``change`` done to all but its code."""
    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])


def _markdown(path: Path, uri: Path) -> str:
    """A page's text; a notebook's pictures are written beside ``uri``."""
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir() if file.is_file())
        return "\n".join([f"# {path.name}", "", *(f"* [{name}]({name})" for name in names), ""])
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    from nbconvert import MarkdownExporter

    markdown, resources = MarkdownExporter().from_filename(str(path), {"output_files_dir": f"{path.stem}_files"})
    for picture, content in resources["outputs"].items():
        (uri.parent / picture).parent.mkdir(exist_ok=True)
        (uri.parent / picture).write_bytes(content)
    return markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="default: build/docs")
    lay_out(parser.parse_args().out)


if __name__ == "__main__":
    main()
