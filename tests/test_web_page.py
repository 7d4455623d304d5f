"""The page of tools/export_web.py in a real browser: its answers are PyTorch's, whoever computes them."""

import base64
import functools
import http.server
import io
import threading

import numpy as np
import pytest
import torch
from browsers import BROWSER, DRIVER, requests_of, started
from converted_models import Blocks, converted
from PIL import Image
from runtimes.write import steady
from torch import nn
from zoo_samples import read

import models
import quantize
from tools import export_web
from tools.web.runtime import runtime_files
from training.data import Normalization

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with chromedriver here")

NORMALIZATION = Normalization((0.5, 0.45, 0.4), (0.25, 0.3, 0.2))
CLOSE = 1e-4  # of probabilities
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

# What the page shows: class -> probability.
SHOWN = "return [...document.querySelectorAll('#classes li')].map(e => [+e.dataset.class, +e.dataset.probability])"
STILL = "return document.getElementById('classes').ariaBusy === 'false'"
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[1], { type: arguments[2] }));
document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
"""


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_):
        pass


class Page:
    """A page in Chromium."""

    def __init__(self, folder, browser):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=folder))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("performance")  # of the page that a new profile begins with
        browser.get(self.address)
        self.kernel = self.wait("return document.documentElement.dataset.ready")

    def close(self):
        self.browser.quit()
        self.server.shutdown()
        self.server.server_close()

    def wait(self, script, *arguments):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 60).until(lambda browser: browser.execute_script(script, *arguments))

    def text(self, name: str) -> str:
        return self.browser.find_element("id", name).text

    def click(self, name: str) -> None:
        self.browser.find_element("id", name).click()

    def computed_by(self, who: str) -> None:
        self.browser.find_element("css selector", f"#who option[value={who}]").click()

    def forget(self) -> None:
        self.browser.execute_script("document.getElementById('classes').replaceChildren()")

    def drop(self, contents: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
        self.browser.execute_script(DROP, base64.b64encode(contents).decode(), name, kind)

    def probabilities(self, count: int = 10) -> np.ndarray:
        """Of the classes, in their order, as soon as the page shows them."""
        self.wait(f"return document.querySelectorAll('#classes li').length === {count}")
        found = dict(self.browser.execute_script(SHOWN))
        return np.array([found[i] for i in range(count)])

    def seen(self) -> torch.Tensor:
        """The pixels that the network saw, uint8 (height, width, 3)."""
        script = "const c = document.getElementById('seen'); return c.toDataURL()"
        encoded = self.browser.execute_script(script).partition(",")[2]
        return torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")))


def png(pixels: torch.Tensor) -> bytes:
    """uint8 (C, H, W) as a file."""
    array = pixels.permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """onnxruntime-web in a folder."""
    try:
        files = runtime_files()
    except OSError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("onnxruntime-web")
    for name, contents in files.items():
        (folder / name).write_bytes(contents)
    return folder


def write(folder, fetched, *arguments: str) -> None:
    """The page of a network, into ``folder / "page"``."""
    file, *flags = arguments
    assert export_web.main([file, str(folder / "page"), *flags, "--runtime", str(fetched)]) == 0


def opened(folder, size=(1000, 800), *flags, **options) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost,127.0.0.1")
        return Page(folder / "page", started(folder / "profile", size, *flags, **options))


@pytest.fixture(scope="module")
def digits(fetched, tmp_path_factory):
    """The page of a trained network of digits."""
    folder = tmp_path_factory.mktemp("digits")
    write(folder, fetched, "lenet5_xnornet", "--pretrained", "mnist")
    page = opened(folder, (1000, 800), *CAMERA)
    yield page
    page.close()


@pytest.fixture(scope="module")
def colours(fetched, tmp_path_factory):
    """The page of a small network of colours, whose bits go through a pooling and a shuffle; the network, and pictures,
    uint8 (N, 3, 12, 12).
    """
    folder = tmp_path_factory.mktemp("colours")
    torch.manual_seed(0)
    pictures = torch.randint(0, 256, (64, 3, 12, 12), dtype=torch.uint8)
    between = nn.ReLU(), nn.MaxPool2d(2), models.layers.ChannelShuffle(8)
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), Blocks(*between, groups=2), *end)
    network, _ = converted(net, NORMALIZATION(pictures))
    metadata = {"input_size": [3, 12, 12], "input_normalization": NORMALIZATION._asdict()}
    images = steady(network, NORMALIZATION(pictures))
    quantize.export_onnx(network, folder / "net.onnx", images, metadata=metadata)
    write(folder, fetched, str(folder / "net.onnx"))
    far = [int((NORMALIZATION(pictures) == image).flatten(1).all(1).nonzero()) for image in images]
    page = opened(folder)
    yield page, network, pictures[far]
    page.close()


@torch.inference_mode()
def expected(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    return network(images).softmax(1).numpy()[0]


def trained() -> nn.Module:
    return models.create_model("lenet5_xnornet", pretrained="mnist").eval()


def grey(pixels: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) of grey as the network takes it."""
    about = models.get_pretrained("lenet5_xnornet", "mnist")
    return about.images(Image.fromarray(pixels.numpy()))


def three(image: torch.Tensor) -> torch.Tensor:
    """(1, H, W) as (H, W, 3)."""
    return image.permute(1, 2, 0).expand(-1, -1, 3).contiguous()


def test_the_page_loads_nothing_from_elsewhere_and_says_what_it_is(digits):
    assert digits.kernel == "wasm"
    assert digits.text("name") == "lenet5_xnornet"
    kilobytes = models.get_pretrained("lenet5_xnornet", "mnist").onnx_path.stat().st_size / 1000
    assert f"{kilobytes:.1f} kB; its parameters in float 1734 kB, 18.5 times as much" in digits.text("size")
    asked = requests_of(digits.browser)
    assert f"{digits.address}kernels.wasm" in asked
    assert f"{digits.address}onnxruntime/ort-wasm-simd-threaded.wasm" in asked
    assert f"{digits.address}network/whole.onnx" not in asked
    assert [url for url in asked if not url.startswith((digits.address, "data:"))] == []
    assert not digits.browser.get_log("browser")  # no error, nothing that the page's own policy refused


@pytest.mark.parametrize("who", ["kernels", "alone"])
def test_a_picture_that_is_dropped(digits, who):
    images, labels = read("mnist")
    network, right = trained(), 0
    digits.computed_by(who)
    for image, label in zip(images[:12], labels[:12], strict=True):
        digits.forget()
        digits.drop(png(image))
        found = digits.probabilities()
        assert np.allclose(found, expected(network, grey(three(image))), atol=CLOSE)
        right += int(found.argmax() == label)
    assert right >= 11


def test_a_file_that_is_chosen(digits, tmp_path):
    image = read("mnist")[0][3]
    (tmp_path / "digit.png").write_bytes(png(image))
    digits.forget()
    digits.browser.find_element("id", "file").send_keys(str(tmp_path / "digit.png"))
    wanted = expected(trained(), grey(three(image)))
    assert np.allclose(digits.probabilities(), wanted, atol=CLOSE)
    digits.forget()
    digits.click("inverted")
    turned = expected(trained(), grey(255 - three(image)))
    assert np.allclose(digits.probabilities(), turned, atol=CLOSE)
    digits.click("inverted")
    assert not np.allclose(wanted, turned, atol=0.1)


def draw(page, *strokes):
    from selenium.webdriver import ActionChains

    page.click("clear")
    pad = page.browser.find_element("id", "pad")
    chain = ActionChains(page.browser, duration=20)
    for first, *moves in strokes:
        chain.move_to_element_with_offset(pad, *first).click_and_hold()
        for move in moves:
            chain.move_by_offset(*move)
        chain.release()
    chain.perform()


@pytest.mark.parametrize(
    ("strokes", "digit"),
    [([[(10, -90), (-5, 60), (-5, 60), (-5, 60)]], 1), ([[(-60, -70), (60, 0), (50, 0), (-30, 60), (-30, 80)]], 7)],
)
def test_a_digit_that_is_drawn(digits, strokes, digit):
    draw(digits, *strokes)
    digits.wait(STILL)
    found, seen = digits.probabilities(), digits.seen()
    assert found.argmax() == digit
    assert np.allclose(found, expected(trained(), grey(seen)), atol=CLOSE)
    rows, columns = seen[:, :, 0].gt(64).nonzero(as_tuple=True)
    assert 18 <= max(int(axis.max() - axis.min()) + 1 for axis in (rows, columns)) <= 21  # as MNIST has it: 20


def test_the_camera_is_watched_until_something_else_is_chosen(digits):
    digits.forget()
    digits.click("camera")
    first = digits.probabilities()
    assert abs(first.sum() - 1) < 1e-6
    digits.wait("return document.getElementById('video').currentTime > 0.5")
    digits.click("draw")
    assert digits.browser.execute_script("return document.getElementById('video').srcObject === null")
    assert not digits.text("message")


def test_what_is_no_picture_is_said(digits):
    digits.drop(b"no picture", "letter.txt", "text/plain")
    digits.wait("return document.getElementById('message').textContent.length > 0")
    assert digits.text("message") == "letter.txt is no picture that this browser can read."


def test_both_ways_are_measured(digits):
    digits.click("measure")
    digits.wait("return document.getElementById('measured').textContent.length > 0")
    assert digits.text("measured").count(" ms") == 2
    assert digits.text("measured").startswith("our kernels ")
    assert "not give the same" not in digits.text("measured")


@pytest.mark.parametrize("who", ["kernels", "alone"])
def test_colours_shuffles_and_poolings(colours, who):
    page, network, pictures = colours
    page.computed_by(who)
    for picture in pictures:
        page.forget()
        page.drop(png(picture))
        assert np.allclose(page.probabilities(), expected(network, NORMALIZATION(picture[None])), atol=CLOSE)
    assert len({tuple(expected(network, NORMALIZATION(picture[None])).round(3)) for picture in pictures}) > 1


def test_a_larger_picture_is_cut_to_its_centre(colours):
    page, _, _ = colours
    picture = torch.zeros(3, 24, 80, dtype=torch.uint8)
    picture[0, :, 28:40], picture[2, :, 40:52] = 255, 255  # red and blue; black beside them is not seen
    page.forget()
    page.drop(png(picture))
    page.probabilities()
    seen = page.seen()
    assert seen.shape == (12, 12, 3)
    assert (seen[:, :5] == torch.tensor([255, 0, 0])).all()
    assert (seen[:, 7:] == torch.tensor([0, 0, 255])).all()


def test_a_browser_that_cannot_load_the_kernels_runs_the_page_all_the_same(fetched, tmp_path):
    write(tmp_path, fetched, "lenet5_xnornet", "--pretrained", "mnist")
    (tmp_path / "page" / "kernels.wasm").write_bytes(b"\0asm\1\0\0\0 of another time")
    page = opened(tmp_path)
    try:
        assert page.kernel == "alone"
        image = read("mnist")[0][0]
        page.drop(png(image))
        assert np.allclose(page.probabilities(), expected(trained(), grey(three(image))), atol=CLOSE)
    finally:
        page.close()


def test_a_file_without_nodes_of_ours_runs_on_onnxruntime_web_alone_on_a_phone(fetched, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    image = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    quantize.export_onnx(network, tmp_path / "a_float_network.onnx", torch.randn(2, 1, 8, 8))
    write(tmp_path, fetched, str(tmp_path / "a_float_network.onnx"), "--normalize", "none")
    page = opened(tmp_path, (390, 844), phone=True)
    try:
        assert page.kernel == "alone"
        assert page.text("name") == "a_float_network"
        page.drop(png(image))
        assert np.allclose(page.probabilities(3), expected(network, image[None] / 255), atol=CLOSE)
        assert page.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert "class" in page.text("classes")
    finally:
        page.close()
