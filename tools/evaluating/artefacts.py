"""A trained network in whatever file it ships: a checkpoint, a packed file or an ONNX file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

import models
import quantize
from quantize.export.onnx_session import QonnxSession, executor_missing, uses_domain
from quantize.export.qonnx_format import DOMAIN as QONNX_DOMAIN
from tools.evaluating.onnx_files import read_facts
from training import TrainConfig, load_model
from training.checkpoint import BEST, find_checkpoint
from training.config.resume import check_same_classes
from training.data import Data, Normalization, load_data
from training.watch.console import progress

BATCH = 100  # images
CHECKPOINT, PACKED_FILE, ONNX_FILE, ZOO = "checkpoint", "packed file", "ONNX file", "network of the zoo, packed"


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A trained classifier.

    Attributes:
        path, kind: the file, and what it is, such as "checkpoint", "packed file" or "ONNX file".
        run: normalized float images (N, C, H, W) -> outputs (N, classes), on the CPU.
        input_size: (channels, height, width).
        classes, normalization, dataset, data_dir: None where the file does not say.
    """

    path: Path
    kind: str
    run: Callable[[Tensor], Tensor]
    input_size: tuple[int, int, int]
    classes: list[str] | None
    normalization: Normalization | None
    dataset: str | None = None
    data_dir: str | None = None


def open_artefact(path: str | Path, threads: int | None = None, packed: bool = False) -> Artefact:
    """The classifier in a file, or in the best checkpoint of a run directory.

    Args:
        threads: that it computes on; None is PyTorch's or onnxruntime's choice.
        packed: convert the binary layers of a checkpoint, so that they compute with bits.

    Raises FileNotFoundError or ValueError, in one sentence.
    """
    if Path(path).suffix == ".onnx":
        return _open_onnx(Path(path).expanduser(), threads)
    if threads is not None:
        torch.set_num_threads(threads)
    model, info = load_model(find_checkpoint(path, BEST))
    if packed and any(isinstance(m, quantize.BinaryLayer) for m in model.modules()):
        model = quantize.convert(model, torch.zeros(1, *info.input_size))
    kind = PACKED_FILE if info.packed else CHECKPOINT
    known = {key: info.config.get(key) for key in ("dataset", "data_dir")}
    return Artefact(info.path, kind, _runner(model), info.input_size, info.classes, info.normalization, **known)


def open_pretrained(name: str, dataset: str, threads: int | None = None) -> Artefact:
    """A trained network that comes with the package. Raises ValueError where there is none."""
    if threads is not None:
        torch.set_num_threads(threads)
    model, entry = models.create_model(name, pretrained=dataset, packed=True), models.get_pretrained(name, dataset)
    normalization = Normalization(entry.mean, entry.std)
    return Artefact(entry.state_path, ZOO, _runner(model), entry.input_size, entry.classes, normalization, dataset)


def _runner(model: nn.Module) -> Callable[[Tensor], Tensor]:
    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        return model(images)

    return run


def _open_onnx(path: Path, threads: int | None) -> Artefact:
    session = _session(path, threads)
    facts = read_facts(session, str(path))

    def run(images: Tensor) -> Tensor:
        try:
            (found,) = session.run([facts.output], {facts.input: images.numpy()})
        except Exception as error:  # onnxruntime's exceptions have no common base
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{str(path)!r} does not run on images {tuple(images.shape)}: {reason}") from error
        return torch.from_numpy(found)

    known = facts.input_size, facts.classes, facts.normalization, facts.dataset
    return Artefact(path, ONNX_FILE, run, *known)


def _session(path: Path, threads: int | None) -> onnxruntime.InferenceSession | QonnxSession:
    if not uses_domain(str(path), QONNX_DOMAIN):
        return quantize.ort_session(path, threads=threads)
    if missing := executor_missing():
        raise ValueError(f"cannot run {str(path)!r}: {missing}")
    return QonnxSession(str(path))


def open_images(
    artefacts: list[Artefact], dataset: str | None, data_dir: str | None, skip_corrupt: bool = False
) -> tuple[Data, list[Artefact]]:
    """The test set for all ``artefacts``, and these with the classes and normalization that they left open.

    Args:
        dataset, data_dir: None is what the first artefact that knows was trained on.
        skip_corrupt: leave pictures out that cannot be read, and list them in the data.

    Raises ValueError or OSError, in one sentence, where an artefact does not fit the set or the others.
    """
    first = artefacts[0]
    for other in artefacts[1:]:
        if other.input_size != first.input_size:
            sizes = (f"{str(a.path)!r} takes images of {'x'.join(map(str, a.input_size))}" for a in (first, other))
            raise ValueError(f"{', '.join(sizes)}: they cannot see the same images; compare two of one input size")
    dataset = dataset or next((a.dataset for a in artefacts if a.dataset), None)
    if dataset is None:
        raise ValueError(f"{str(first.path)!r} does not say what it was trained on; name its set with --dataset")
    data_dir = data_dir or next((a.data_dir for a in artefacts if a.data_dir), "data")
    config = TrainConfig.create(dataset=dataset, data_dir=data_dir, augment="none", skip_corrupt=skip_corrupt)
    data = load_data(config, first.input_size, torch.device("cpu"), test_only=True)
    for artefact in artefacts:
        check_same_classes(artefact.classes or data.classes, data.classes, str(artefact.path))
    known = {"classes": data.classes, "dataset": dataset}
    return data, [
        dataclasses.replace(a, normalization=a.normalization or data.normalization, **known) for a in artefacts
    ]


def answers(artefact: Artefact, data: Data) -> tuple[Tensor, Tensor]:
    """Outputs (N, classes) for the test images in their order, and labels (N,).

    Raises ValueError where there are not as many outputs as classes.
    """
    found, labels = [], []
    order = torch.arange(data.test.count).split(BATCH)
    for images, theirs in progress(data.test.raw_batches(order), len(order), artefact.path.name):
        found.append(artefact.run(artefact.normalization(images)))
        labels.append(theirs)
        if found[-1].shape[1:] != (len(artefact.classes),):
            shape = tuple(found[-1].shape[1:])
            raise ValueError(
                f"{str(artefact.path)!r} gives outputs of shape {shape} an image, and {artefact.dataset!r} has "
                f"{len(artefact.classes)} classes; name the set that it was trained on with --dataset"
            )
    return torch.cat(found), torch.cat(labels)
