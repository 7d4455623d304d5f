"""tools/evaluate.py: against numpy, between formats on whole test sets, and what it says of files it cannot use."""

import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import torchvision
from picture_files import write_pictures
from shipped_files import DIGITS, prepared, trained_lightly, write_checkpoint, write_linear
from sklearn.datasets import load_digits
from torch import nn

import quantize
from quantize.export.formats import FORMATS
from quantize.export.onnx_session import executor_missing
from tools import convert, evaluate, export_onnx
from tools.evaluating.artefacts import Artefact, answers, open_artefact, open_images
from tools.evaluating.comparison import Disagreement, compare
from training.data import MemoryLoader, Normalization, get_preset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RUNNABLE = [name for name in FORMATS if not FORMATS[name].why_unchecked()]  # here
MEAN, STD = 0.3, 0.4
NORMALIZED = {"input_normalization": {"mean": [MEAN], "std": [STD]}}


@pytest.fixture(scope="module")
def digits():
    """Test images as 64 pixels in 0 to 255, and labels: every fifth of a class."""
    found = load_digits()
    number = np.array([(found.target[:i] == label).sum() for i, label in enumerate(found.target)])
    test = number % 5 == 4
    return np.round(found.images[test] * (255 / 16)).reshape(-1, 64), found.target[test]


@pytest.fixture(scope="module")
def weights(digits):
    """Two linear classifiers, the means of the classes and a worse one."""
    pixels, labels = digits
    means = np.stack([pixels[labels == label].mean(0) for label in range(10)], 1) / 255
    means -= means.mean(1, keepdims=True)
    return means, means + np.random.default_rng(0).normal(0, 0.05, means.shape)


def in_numpy(pixels, weight, mean=MEAN, std=STD):
    return ((pixels / 255 - mean) / std) @ weight


def call(capsys, *argv):
    """Exit code, output and errors."""
    code = evaluate.main([str(part) for part in argv])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def fails(capsys, message, *argv):
    code, out, error = call(capsys, *argv)
    assert message in error
    assert (code, out, error.count("\n")) == (2, "", 1)


def test_accuracy_latency_and_size(digits, weights, tmp_path, capsys):
    path = write_linear(tmp_path / "net.onnx", weights[0], classes=DIGITS, dataset="digits", **NORMALIZED)
    code, out, _ = call(capsys, path)
    pixels, labels = digits
    right = (in_numpy(pixels, weights[0]).argmax(1) == labels).mean()
    assert 0.5 < right < 1
    accuracy, latency, size = out.splitlines()
    assert code == 0
    assert accuracy == f"accuracy  {100 * right:.2f}% of 355 test images of digits"
    median, p95 = map(
        float, re.fullmatch(r"latency   median ([\d.]+) ms, p95 ([\d.]+) ms: .*, 1 thread", latency).groups()
    )
    assert 0 < median <= p95
    assert size == f"size      {Path(path).stat().st_size:,} bytes (ONNX file)"


def test_an_onnx_file_that_says_nothing_gets_the_normalization_of_the_set(digits, weights, tmp_path, capsys):
    path = write_linear(tmp_path / "net.onnx", weights[0])
    fails(capsys, "does not say what it was trained on; name its set with --dataset", path)
    (mean,), (std,) = get_preset("digits", 1)
    shifted = write_linear(tmp_path / "shifted.onnx", weights[0], input_normalization={"mean": [mean], "std": [std]})
    code, out, _ = call(capsys, "--compare", path, shifted, "--dataset", "digits")
    assert code == 0
    assert "0 of 355 predictions differ; the largest difference between outputs is 0," in out


def test_latency_is_that_of_single_normalized_images(tmp_path):
    images = torch.randint(256, (150, 1, 4, 4), dtype=torch.uint8)
    data = type("Data", (), {"test": MemoryLoader(images, torch.zeros(150), 50, Normalization((0.0,), (1.0,)))})
    seen = []
    artefact = Artefact(tmp_path, "ONNX file", seen.append, (1, 4, 4), DIGITS, Normalization((0.5,), (0.25,)))
    times = evaluate.latency(artefact, data)
    assert len(times.calls) == 100
    assert torch.allclose(torch.cat(seen[-100:]), (images[:100] / 255 - 0.5) / 0.25, atol=1e-6)


def test_comparing_names_each_image_that_differs(digits, weights, tmp_path, capsys):
    files = [
        write_linear(tmp_path / f"{i}.onnx", w, classes=DIGITS, dataset="digits", **NORMALIZED)
        for i, w in enumerate(weights)
    ]
    code, out, _ = call(capsys, "--compare", *files, "--save", tmp_path / "sheet")
    pixels, labels = digits
    a, b = (in_numpy(pixels, weight) for weight in weights)
    differ = np.flatnonzero(a.argmax(1) != b.argmax(1))
    assert len(differ) > evaluate.COLUMNS
    lines = out.splitlines()
    for line, name, outputs in zip(lines, "AB", (a, b), strict=False):
        assert line.split()[:2] == [name, f"{100 * (outputs.argmax(1) == labels).mean():.2f}%"]
    assert lines[2].startswith(f"{len(differ)} of 355 predictions differ; ")
    assert f"between outputs is {np.abs(a - b).max():.2g}, beside a largest output of {np.abs(a).max():.2g}" in lines[2]
    rows = [line.split() for line in lines[6 : 6 + len(differ)]]
    for i, (index, label, *cells, apart) in zip(differ, rows, strict=True):
        assert (int(index), int(label)) == (i, labels[i])
        for outputs, prediction, score in zip((a, b), cells[::2], cells[1::2], strict=True):
            assert int(prediction) == outputs[i].argmax()
            odds = np.exp(outputs[i] - outputs[i].max())
            assert float(score) == pytest.approx(1 / odds.sum(), abs=6e-4)
        assert float(apart) == pytest.approx(np.abs(a[i] - b[i]).max(), rel=0.06)
    assert code == 1
    shown = min(len(differ), evaluate.COLUMNS * evaluate.ROWS)
    assert lines[-1] == f"{tmp_path / 'sheet' / 'disagreements.png'}: the first {shown}"
    assert matplotlib.image.imread(tmp_path / "sheet/disagreements.png").shape[1] == 200 * evaluate.COLUMNS


def test_the_contact_sheet_shows_the_images(tmp_path):
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[0, 0], images[1, 2] = 255, 255
    shown = [Disagreement(i, "cat", ("cat", "dog"), (0.5, 0.5), 1.0) for i in range(2)]
    evaluate.contact_sheet(images, shown, tmp_path / "sheet.png")
    sheet = matplotlib.image.imread(tmp_path / "sheet.png")[..., :3]
    red, blue = ((sheet == colour).all(2) for colour in ((1, 0, 0), (0, 0, 1)))
    assert red.sum() > 100 * 100
    assert blue.sum() == pytest.approx(red.sum(), rel=0.1)
    assert np.argwhere(red)[:, 1].max() < np.argwhere(blue)[:, 1].min()


def test_files_that_agree_leave_no_sheet(weights, tmp_path, capsys):
    path = write_linear(tmp_path / "net.onnx", weights[0], dataset="digits")
    code, out, _ = call(capsys, "--compare", path, path, "--save", tmp_path / "sheet")
    assert (code, len(out.splitlines())) == (0, 3)
    assert not (tmp_path / "sheet").exists()


def test_compare_by_hand():
    a = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]])
    b = torch.tensor([[0.5, 1.0], [0.0, 2.0], [0.0, 3.0]])
    found = compare(a, b, torch.tensor([0, 1, 1]), ["cat", "dog"])
    (odd,) = found.disagreements
    assert (odd.index, odd.label, odd.predictions, odd.difference) == (1, "dog", ("cat", "dog"), 2.0)
    assert odd.scores == pytest.approx([1 / (1 + np.exp(-2))] * 2)
    assert (found.images, found.difference, found.largest, found.moved) == (3, 2.0, 3.0, 2)


def test_a_moved_sign_is_told_from_rounding():
    """The largest output is 4: rounding is up to 0.0004, and what one sign changes lies far above it."""
    a = torch.tensor([[4.0, 1.0], [3.0, 1.0], [2.0, 1.0]])
    rounded = a + torch.tensor([[3e-4, 0.0], [0.0, -3e-4], [0.0, 0.0]])
    moved = rounded + torch.tensor([[0.0, 0.0], [0.04, 0.0], [0.0, 0.0]])
    shown = [str(compare(a, b, torch.tensor([0, 0, 0]), ["cat", "dog"])) for b in (rounded, moved)]
    assert "; 0 images differ by more than rounding, 0.0001 of that" in shown[0]
    assert "moved sign" not in shown[0]
    assert "0 of 3 predictions differ; " in shown[1]
    assert "; 1 image differs by more than rounding" in shown[1]
    assert shown[1].count("has a moved sign") == 1


def every_form(model, plan, size, dataset, folder, **changed) -> dict[str, Path]:
    """Form -> file: the checkpoint, the packed file, each ONNX format that runs here."""
    files = {
        "checkpoint": write_checkpoint(folder / "best.pt", "lenet5_xnornet", model, plan, size, dataset, **changed)
    }
    files["packed file"] = folder / "packed.pt"
    assert convert.main([str(files["checkpoint"]), str(files["packed file"])]) == 0
    for name in RUNNABLE:
        files[name] = folder / f"{name}.onnx"
        assert export_onnx.main([str(files["checkpoint"]), str(files[name]), "--format", name, "--no-check"]) == 0
    return files


def check_every_form(files: dict[str, Path], count: int, *where: str | None) -> None:
    """All agree with the checkpoint on each of ``count`` predictions; most of them are right."""
    data, opened = open_images([open_artefact(file, 1) for file in files.values()], *where)
    expected, labels = answers(opened[0], data)
    assert len(labels) == count
    assert evaluate.accuracy(expected, labels) > 80
    for form, artefact in zip(files, opened, strict=True):
        found = compare(expected, answers(artefact, data)[0], labels, data.classes)
        assert not found.disagreements, f"{form}: {found}"


def test_unreadable_pictures_are_left_out_and_listed(tmp_path, capsys):
    """A classifier that says "cat" of 3 cats and 2 of 3 dogs."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).eval()
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([1.0, 0.0]))
    normalization = {"input_normalization": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    metadata = {"dataset": "imagefolder", "input_size": [3, 6, 6], "classes": ["cat", "dog"], **normalization}
    quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 3, 6, 6), metadata=metadata, check=False)
    damaged = write_pictures(tmp_path / "pictures") / "test" / "dog" / "1.png"
    damaged.write_bytes(b"no picture")
    arguments = (tmp_path / "net.onnx", "--data-dir", tmp_path / "pictures")
    fails(capsys, f"{str(damaged)!r} is not a readable picture", *arguments)
    code, out, _ = call(capsys, *arguments, "--skip-corrupt")
    assert code == 0
    assert out.startswith("accuracy  60.00% of 5 test images of imagefolder\n")
    assert out.endswith(f"Warning: 1 unreadable picture is skipped: {damaged}\n")


@pytest.mark.skipif(executor_missing() != "", reason=executor_missing())
def test_a_qonnx_file_is_evaluated(tmp_path, capsys):
    net = nn.Sequential(nn.Flatten(), quantize.BinaryLinear(64, 10, threshold=True)).eval()
    with torch.no_grad():
        net[1].threshold.uniform_(-0.5, 0.5)
    metadata = {"dataset": "digits", "input_size": [1, 8, 8], "classes": DIGITS, **NORMALIZED}
    for name in ("qonnx", "standard"):
        path = tmp_path / f"{name}.onnx"
        quantize.export_onnx(net, path, torch.randn(2, 1, 8, 8), format=name, metadata=metadata, check=False)
    code, out, _ = call(capsys, "--compare", tmp_path / "qonnx.onnx", tmp_path / "standard.onnx")
    assert (code, out.splitlines()[2].partition(";")[0]) == (0, "0 of 355 predictions differ")


def test_a_qonnx_file_without_its_executor(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("quantize.export.onnx_session.importlib.util.find_spec", lambda name: None)
    net = nn.Sequential(nn.Flatten(), quantize.BinaryLinear(64, 10))
    quantize.export_onnx(net, tmp_path / "net.onnx", torch.randn(2, 1, 8, 8), format="qonnx")
    fails(
        capsys, "the package qonnx, which runs QONNX files, is not installed: pip install qonnx", tmp_path / "net.onnx"
    )


def test_every_form_agrees_on_all_digits(tmp_path, capsys):
    trained = trained_lightly("lenet5_xnornet", "digits", "", 40)
    files = every_form(*trained, (1, 28, 28), "digits", tmp_path)
    check_every_form(files, 355, None, None)
    capsys.readouterr()
    code, out, _ = call(capsys, "--compare", files["checkpoint"], files["packed file"])
    assert (code, out.splitlines()[2].partition(";")[0]) == (0, "0 of 355 predictions differ")


@pytest.mark.skipif(not (SHARED / "MNIST").exists(), reason="MNIST is in ../shared/data, which is not there")
def test_every_form_agrees_on_all_of_mnist(tmp_path):
    trained = trained_lightly("lenet5_xnornet", "mnist", str(SHARED), 40)
    classes = torchvision.datasets.MNIST.classes
    files = every_form(*trained, (1, 28, 28), "mnist", tmp_path, classes=classes)
    check_every_form(files, 10_000, "mnist", str(SHARED))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 2}, "takes x0: tensor(float) ['N', 1, 8, 8], x1: tensor(float) ['N', 1, 8, 8]; a batch of images"),
        ({"shape": (1, 1, 8, 8)}, "takes batches of 1 only; export it with a dynamic batch"),
        ({"shape": ("N", 1, "H", "W")}, "an input (N, 1 or 3, height, width) of a known size is needed"),
        ({"shape": ("N", 4, 4, 4)}, "an input (N, 1 or 3, height, width) of a known size is needed"),
        ({"input_size": [1, 9, 9]}, "takes ['N', 1, 8, 8] and says input_size [1, 9, 9] in its metadata; export it"),
        ({"input_size": "eight"}, "of a known size is needed: export it with metadata"),
        ({"classes": "cat, dog"}, "says classes 'cat, dog' in its metadata; a JSON list of names is needed"),
        ({"input_normalization": {"mean": [1, 2, 3], "std": [1, 1, 1]}}, "with 1 values each is needed"),
        ({"input_normalization": {"mean": [1]}}, "with 1 values each is needed"),
        ({"classes": ["cat", "dog"]}, "the 2 classes of"),
        ({"dataset": "digit"}, "unknown dataset 'digit': did you mean 'digits'"),
        ({"weight": np.zeros((64, 7))}, "gives outputs of shape (7,) an image, and 'digits' has 10 classes; name"),
        ({"shape": ("N", 1, "H", "W"), "input_size": [1, 9, 9]}, "does not run on images (100, 1, 9, 9): "),
    ],
)
def test_onnx_files_that_cannot_be_evaluated(options, message, tmp_path, capsys):
    path = write_linear(tmp_path / "net.onnx", **{"weight": np.zeros((64, 10)), "dataset": "digits", **options})
    fails(capsys, message, path)


def test_files_that_cannot_be_read(weights, tmp_path, capsys):
    path = Path(write_linear(tmp_path / "net.onnx", weights[0], dataset="digits"))
    whole = path.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("no checkpoint")
    for name, message in {
        "none.pt": "there is no checkpoint",
        "none.onnx": "no ONNX file at",
        ".": "give a .pt file or a run directory with best.pt",
        "cut.onnx": "is it a whole ONNX file?",
        "text.pt": "is not a complete checkpoint of plain tensors",
    }.items():
        fails(capsys, message, tmp_path / name)
        fails(capsys, message, "--compare", path, tmp_path / name)


def test_artefacts_that_do_not_go_together(weights, tmp_path, capsys):
    small = write_linear(tmp_path / "small.onnx", weights[0], dataset="digits")
    large = write_linear(tmp_path / "large.onnx", np.zeros((256, 10)), shape=("N", 1, 16, 16), dataset="digits")
    fails(capsys, "takes images of 1x16x16: they cannot see the same images", "--compare", small, large)
    fails(capsys, "--save is for the pictures that --compare finds", small, "--save", tmp_path / "x")
    fails(capsys, "is a file; name a directory", "--compare", small, small, "--save", small)
    model, plan = prepared("lenet5_xnornet", torch.randn(4, 1, 28, 28))
    letters = write_checkpoint(
        tmp_path / "letters.pt", "lenet5_xnornet", model, plan, (1, 28, 28), classes=list("abcdefghij")
    )
    fails(capsys, "the 10 classes of", letters, "--dataset", "digits")


@pytest.mark.parametrize("argv", [[], ["a", "--compare", "b", "c"], ["--compare", "a"], ["a", "--threads", "0"]])
def test_flags_that_cannot_be_parsed(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate.main(argv)
    assert stop.value.code == 2
    assert "error: " in capsys.readouterr().err
