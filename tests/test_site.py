"""The documentation as a site: it builds without a warning, and every link and anchor in it leads somewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import models
import quantize

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "pages" / "api"


class Page(HTMLParser):
    """What a page has (``ids``), leads to (``links``) and loads (``loaded``)."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.ids, self.links, self.loaded = path, set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if given.get("href"):
            (self.loaded if tag == "link" else self.links).append(given["href"])
        if given.get("src"):
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the site, built anew, by their paths."""
    pytest.importorskip("zensical", reason="the site is built with the extra docs")
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, ROOT / "docs" / "lay_out.py", "--out", folder / "docs"], check=True)
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for old, new in (
        ("docs_dir: build/docs", "docs_dir: docs"),
        ("site_dir: build/site", "site_dir: site"),
        ("paths: [.]", f"paths: [{ROOT}]"),
        ("[docs/docstrings.py]", f"[{ROOT / 'docs' / 'docstrings.py'}]"),
    ):
        assert old in settings
        settings = settings.replace(old, new)
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", folder / "mkdocs.yml"]
    build = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    return {path: Page(path) for path in (folder / "site").rglob("*.html")}


def leads_nowhere(pages: dict[Path, Page], page: Page, link: str) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False  # another host's, which is not asked
    target = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
    target = target / "index.html" if target.is_dir() else target
    if not target.exists():
        return True
    anchor = unquote(parts.fragment)
    return bool(anchor) and target in pages and anchor not in pages[target].ids


def test_every_link_of_the_site_leads_somewhere(site):
    pages = [page for path, page in site.items() if path.name != "404.html"]  # it is served at any address
    assert sum(len(page.links) for page in pages) > 500
    assert not [(page.path.name, link) for page in pages for link in page.links if leads_nowhere(site, page, link)]


def test_pages_load_what_the_site_has_and_ask_no_other_host(site):
    for path, page in site.items():
        assert not [link for link in page.loaded if urlsplit(link).netloc], path.name
        if path.name != "404.html":
            assert not [link for link in page.loaded if leads_nowhere(site, page, link)], path.name


def test_every_guide_and_notebook_is_a_page(site):
    made = {path.stem for path in site}
    guides = {path.stem for folder in ("READMEs", "notebooks") for path in (ROOT / folder).glob("*.*")}
    assert guides <= made


def referenced() -> list[str]:
    return [name for page in REFERENCE.glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]


@pytest.mark.parametrize("package", [quantize, models], ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name_once(package):
    shown = [name.rpartition(".")[2] for name in referenced() if name.split(".")[0] == package.__name__]
    for name in set(package.__all__) - {"__version__", "schemes"}:
        assert shown.count(name) == 1, name


def test_the_reference_has_the_class_of_every_scheme():
    shown = {name.rpartition(".")[2] for name in referenced()}
    assert {type(quantize.get_scheme(name)).__name__ for name in quantize.list_schemes()} <= shown


def test_what_the_reference_names_is_on_its_pages(site):
    ids = set().union(*(page.ids for path, page in site.items() if path.parent.name == "api"))
    assert set(referenced()) <= ids
