"""The page of tools/report.py in a real browser, at the size of a desk and of a phone."""

import pytest
from browsers import BROWSER, DRIVER, requests_of, started
from logged_runs import write_log

from tools import report

DESK, PHONE = (1280, 900), (390, 844)
NAMES = ["lenet5_float", "lenet5_xnornet", "a_rather_long_name_of_a_run_" * 3]

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with chromedriver here"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Runs of two networks, one with a name that fits no phone."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags, scheme in zip(
        NAMES, ("lenet5 --scheme none", "lenet5_xnornet", "nin_xnornet"), (None, "xnor", "xnor"), strict=True
    ):
        write_log(folder / name, f"--arch {flags} --dataset mnist", scheme=scheme, peak=10**9, machine="CPU " * 30)
    assert report.main([*(str(folder / name) for name in NAMES), "--out", str(folder / "out")]) == 0
    return folder / "out" / "index.html"


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def browser(request, tmp_path, monkeypatch, page):
    """Chromium with the page open, and in ``requests`` all that it asked for; ``width`` of the screen."""
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    driver = started(tmp_path / "profile", request.param, phone=request.param == PHONE)
    try:
        driver.get("about:blank")
        driver.get_log("performance")  # of the page that a new profile begins with
        driver.get(page.as_uri())
        driver.width = request.param[0]
        yield driver
    finally:
        driver.quit()


def test_the_page_fits_the_screen_and_is_whole(browser, page):
    script = browser.execute_script
    assert script("return innerWidth") == browser.width
    assert script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    boxes = script("return [...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert len(boxes) == 2
    assert all(wanted > given for wanted, given in boxes) == (browser.width == PHONE[0])  # tables scroll in their box
    images = script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(images) == 2
    assert all(complete and natural > 500 and 300 < shown <= browser.width for complete, natural, shown in images)
    heads = browser.find_elements("css selector", "tbody th")
    assert all(head.is_displayed() for head in heads)
    assert ["".join(head.text.splitlines()[:-1]) for head in heads] == NAMES
    assert min(script("return arguments[0].getBoundingClientRect().left", head) for head in heads) >= 0
    assert not browser.get_log("browser")  # no error, nothing that the page's own policy refused
    first, *others = requests_of(browser)
    assert first == page.as_uri()
    assert len(others) == len(images)
    assert all(url.startswith("data:image/png;base64,") for url in others)


def test_light_and_dark_follow_the_system(browser):
    def colours(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        style = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        text, back = browser.execute_script(style)
        return [sum(map(int, colour.strip("rgb()").split(","))) / 3 for colour in (text, back)]

    text, back = colours("light")
    assert text < 60 < 200 < back
    text, back = colours("dark")
    assert back < 60 < 200 < text


def test_the_commands_open_and_the_page_still_fits(browser):
    for summary in browser.find_elements("css selector", "summary"):
        summary.click()
    codes = browser.find_elements("css selector", "code")
    assert [code.is_displayed() for code in codes] == [True] * len(NAMES)
    assert all("python trainer_exp.py --arch" in code.text for code in codes)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= browser.width
