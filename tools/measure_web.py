"""Measure networks in the browser: the float twin, the packed file, and the page of tools/export_web.py.

    python tools/measure_web.py nin_gc_xnornet lenet5_xnornet          a table for READMEs/web.md

Networks have random weights, which cost what trained ones do. Each file has a page, opened in Chromium without a window
from a server on this machine. The load lasts until the first answer, and starts onnxruntime-web; the time of an image
is the median of many. The pages have turns, round by round, and the best round of each counts: other processes of the
machine only add. Needs Chromium with chromedriver, and selenium.
Exit codes: 0 done, 2 something that cannot be used.
"""

import argparse
import contextlib
import datetime
import functools
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import quantize
from quantize.words import format_table
from tools import export_web
from tools.benchmarking.sides.network_sides import NetworkCase
from tools.command_line import exit_code, positive, tool_parser
from tools.web.folder import DESCRIPTION, NETWORK, WHOLE
from tools.web.runtime import VERSION
from training.watch.environment import cpu_name

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
WAIT = 120  # seconds
READY = "return document.documentElement.dataset.ready || document.getElementById('message').textContent"
# A page with two ways would measure them in turn, and each would find the other's data in the caches.
FIRST_WAY = "document.getElementById('who').length = 1"
FOUND = "return document.getElementById('measured').dataset.found"
# Pages, in the order of the table.
LABELS = {
    "float": "float twin, onnxruntime-web",
    "as-it-is": "packed file as it is, onnxruntime-web",
    "unpacked": "packed file unpacked by the tool, onnxruntime-web",
    "ours": "packed file, our kernels",
}


def write_pages(name: str, folder: Path) -> dict[str, Path]:
    """The pages of a network, by the keys of ``LABELS``."""
    case = NetworkCase(name)
    float_model, binary = case.networks
    size = list(case.spec.input_size)
    metadata = {"arch": name, "input_size": size}
    pages = {}
    for page, model in (("float", float_model), ("ours", binary)):
        file, pages[page] = folder / "net.onnx", folder / page
        quantize.export_onnx(model, file, case.batch(2), metadata=metadata)
        with contextlib.redirect_stdout(sys.stderr):
            if export_web.main([str(file), str(pages[page]), "--normalize", "none"]):
                raise ValueError(f"no page of {name!r} could be written")
    for page in ("as-it-is", "unpacked"):
        pages[page] = shutil.copytree(pages["ours"], folder / page)
        description = pages[page] / NETWORK / DESCRIPTION
        description.write_text(json.dumps(json.loads(description.read_text()) | {"stages": []}))
    shutil.copyfile(folder / "net.onnx", pages["as-it-is"] / NETWORK / WHOLE)
    return pages


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver. Raises OSError where there is no Chromium."""
    driver = shutil.which("chromedriver")
    if not (BROWSER and driver):
        raise FileNotFoundError("there is no Chromium with chromedriver here: install chromium and chromium-driver")
    from selenium import webdriver

    os.environ["no_proxy"] = "localhost,127.0.0.1"
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=960,640"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def load(browser: Any, address: str) -> float:
    """Milliseconds until the page has its first answer."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(address)
    said = WebDriverWait(browser, WAIT, 0.05).until(lambda one: one.execute_script(READY))
    if said not in ("wasm", "alone"):
        raise ValueError(said)
    return float(browser.find_element("id", "loaded").text.removesuffix(" ms"))


def image(browser: Any) -> float:
    """Milliseconds an image, of the first way that the page knows: the median of several times."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_script(FIRST_WAY)
    browser.find_element("id", "measure").click()
    found = WebDriverWait(browser, WAIT, 0.05).until(lambda one: one.execute_script(FOUND))
    return json.loads(found)[0]["image"]


def measure(pages: dict[str, Path], folder: Path, rounds: int) -> tuple[list[tuple[str, ...]], str]:
    """Rows (what, load, an image, times as fast as float), and the version of the browser."""
    loads, images = ({page: [] for page in LABELS} for _ in range(2))
    with served(folder) as address, chromium(folder / "profile") as browser:
        version = f"{browser.capabilities['browserName']} {browser.capabilities['browserVersion']}"
        for _ in range(rounds):
            for page in LABELS:
                loads[page].append(load(browser, f"{address}/{pages[page].name}/"))
                images[page].append(image(browser))
    best = {page: min(times) for page, times in images.items()}
    rows = [
        (label, f"{min(loads[page]):.0f}", f"{best[page]:.2f}", f"{best['float'] / best[page]:.1f}")
        for page, label in LABELS.items()
    ]
    return rows, version


def run(flags: argparse.Namespace) -> None:
    """Measure and print. Raises ValueError or OSError, in one sentence."""
    rows = []
    for name in flags.networks:
        with tempfile.TemporaryDirectory() as scratch:
            found, version = measure(write_pages(name, Path(scratch)), Path(scratch), flags.rounds)
        rows += [(name, *row) for row in found]
    header = ("network", "in the browser", "load, ms", "an image, ms", "times as fast as float")
    print(format_table(header, rows, right=header[2:]))
    date = datetime.datetime.now(datetime.timezone.utc).date()
    load_average = os.getloadavg()[0]
    versions = f"{version}, onnxruntime-web {VERSION}, torch {torch.__version__}"
    print(f"\n{cpu_name()}, one thread, {versions}, {date}; the best of {flags.rounds} rounds")
    print(f"load of the machine at the end: {load_average:.1f}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    parser = tool_parser(__doc__)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="names that end in a scheme: nin_gc_xnornet")
    parser.add_argument("--rounds", type=positive, default=7, help="default: %(default)s")
    return exit_code("measure_web", lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
