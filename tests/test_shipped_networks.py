"""Every network that comes with the package has the accuracy that the registry says, in every form that it ships in."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import zoo_samples

import models
import quantize
from models import zoo
from training import TrainConfig
from training.data import Normalization, load_data

SHIPPED = models.list_pretrained()
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FULL = {"mnist": SHARED}  # where torchvision's files of a set may lie
ROUNDING = 1  # images of a sample that another processor's rounding may move


def normalized(entry: zoo.Pretrained, images: torch.Tensor) -> torch.Tensor:
    return Normalization(entry.mean, entry.std)(images)


def in_onnxruntime(session, images: torch.Tensor) -> torch.Tensor:
    (output,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(np.asarray(output))


def forms(entry: zoo.Pretrained):
    """Name -> images to outputs."""
    for name, packed in (("binary", False), ("packed", True)):
        yield name, models.create_model(entry.name, pretrained=entry.dataset, packed=packed).eval()
    options = {"providers": ["CPUExecutionProvider"]}
    for name, session in (
        ("ONNX with the library", quantize.ort_session(entry.onnx_path)),
        ("ONNX alone", onnxruntime.InferenceSession(str(entry.onnx_path), **options)),
    ):
        yield name, lambda images, session=session: in_onnxruntime(session, images)


@pytest.mark.parametrize("key", SHIPPED, ids="-".join)
@torch.inference_mode()
def test_a_sample_of_real_images(key):
    entry = models.get_pretrained(*key)
    images, labels = zoo_samples.read(entry.dataset)
    for name, run in forms(entry):
        right = int((run(normalized(entry, images)).argmax(1) == labels).sum())
        assert abs(right - entry.sample) <= ROUNDING, name


@pytest.mark.parametrize("key", SHIPPED, ids="-".join)
@torch.inference_mode()
def test_the_whole_test_set(key):
    entry = models.get_pretrained(*key)
    if entry.dataset not in FULL or not FULL[entry.dataset].is_dir():
        pytest.skip(f"the data of {entry.dataset} is not at hand")
    config = TrainConfig.create(dataset=entry.dataset, data_dir=str(FULL[entry.dataset]), augment="none")
    data = load_data(config, entry.input_size, torch.device("cpu"), test_only=True)
    batches = list(data.test.raw_batches(torch.arange(data.test.count).split(500)))
    for name, run in forms(entry):
        right = sum(int((run(normalized(entry, images)).argmax(1) == labels).sum()) for images, labels in batches)
        assert 100 * right / data.test.count == pytest.approx(entry.accuracy, abs=0.05), name


def test_all_of_it_stays_small():
    assert sum(file.stat().st_size for file in zoo.WEIGHTS.iterdir()) < 3_000_000


def test_every_file_is_a_network_s():
    entries = [models.get_pretrained(*key) for key in SHIPPED]
    known = {zoo.REGISTRY, *(part["file"] for entry in entries for part in (entry.state, entry.onnx))}
    assert {file.name for file in zoo.WEIGHTS.iterdir()} == known
    assert all((zoo.WEIGHTS.parents[1] / "READMEs" / "runs" / entry.log / "log.jsonl").exists() for entry in entries)
