"""What the regions show: one batch a picture through a checkpoint, an ONNX file or a network of torchvision's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .regions import Box

TORCHVISION, ZOO = "torchvision:", "zoo:"
SHIPPED = f"{ZOO}nin_xnornet"
NONE = "none"
AT_ONCE = 2  # regions that onnxruntime gets: what its layers hand on stays in the cache
CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "mnist": tuple("0123456789"),
}


class Label(NamedTuple):
    """The likeliest class and its softmax probability."""

    name: str
    score: float


class Preparation(NamedTuple):
    """What a network takes.

    Attributes:
        input_size: (channels, height, width).
        mean, std: a value a channel, for pixels in 0 to 1.
    """

    input_size: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def batch(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> NDArray[np.float32]:
        """(boxes, channels, height, width): the regions of a BGR picture, resized and normalized."""
        channels, height, width = self.input_size
        conversion = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
        crops = [cv2.cvtColor(image[y1:y2, x1:x2], conversion) for x1, y1, x2, y2 in boxes]
        resized = [cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA) for crop in crops]
        pixels = np.stack(resized).reshape(-1, height, width, channels)
        pixels = (pixels / np.float32(255) - np.float32(self.mean)) / np.float32(self.std)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


class Classifier:
    """A network with the names of its classes.

    Args:
        run: ``run(batch) -> logits``, (N, C, H, W) float32 to (N, classes).
        classes: names in the order of the outputs.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        classes: Sequence[str],
        preparation: Preparation,
    ):
        self.run, self.classes, self.preparation = run, list(classes), preparation

    def __call__(self, image: NDArray[np.uint8], boxes: Sequence[Box]) -> list[Label]:
        """A label a box of a BGR picture (height, width, 3); all boxes go through the network together."""
        if not boxes:
            return []
        logits = self.run(self.preparation.batch(image, boxes)).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        best = odds.argmax(axis=1)
        scores = odds.max(axis=1) / odds.sum(axis=1)
        return [Label(self.classes[index], float(score)) for index, score in zip(best, scores, strict=True)]


def load_classifier(name: str, dataset_classes: str | None = None, threads: int | None = None) -> Classifier:
    """What ``--classifier`` names.

    Args:
        name: ``torchvision:NAME``, ``zoo:NAME`` for a shipped network for CIFAR-10, an ``.onnx`` file, or a checkpoint,
            packed file or run directory of the trainer.
        dataset_classes: the set, of :data:`CLASSES`, whose class names and normalization replace the file's own.
        threads: of PyTorch or onnxruntime; None is their choice.

    Raises FileNotFoundError or ValueError, in one sentence.
    """
    if name.startswith(TORCHVISION):
        classifier = from_torchvision(name.removeprefix(TORCHVISION), threads)
    elif name.startswith(ZOO):
        from models.zoo import get_pretrained

        shipped = get_pretrained(name.removeprefix(ZOO), "cifar10")
        classifier = from_file(str(shipped.onnx_path), dataset_classes, threads)
    else:
        classifier = from_file(name, dataset_classes, threads)
    if dataset_classes is not None:
        names = CLASSES[dataset_classes]
        if len(names) != len(classifier.classes):
            raise ValueError(
                f"{name!r} tells {len(classifier.classes)} classes apart, {dataset_classes!r} has {len(names)}; "
                "leave out --dataset-classes"
            )
        classifier.classes = list(names)
    return classifier


def from_file(path: str, dataset: str | None = None, threads: int | None = None) -> Classifier:
    """A checkpoint, packed or not, whose binary layers compute with bits, or an ONNX file.

    Args:
        dataset: whose classes and normalization to take where an ONNX file says nothing.

    Raises FileNotFoundError or ValueError for a missing or foreign file, or one that says too little.
    """
    import torch

    from tools.evaluating.artefacts import ONNX_FILE, open_artefact
    from training.data import get_preset

    if not path.endswith(".onnx") and not Path(path).expanduser().exists():
        raise FileNotFoundError(
            f"unknown classifier {path!r}: give a checkpoint or run directory, a file.onnx, or {TORCHVISION}NAME"
        )
    network = open_artefact(path, threads, packed=True)
    known = {"classes": network.classes, "input_normalization": network.normalization}
    if dataset is not None:
        defaults = {"classes": CLASSES[dataset], "input_normalization": get_preset(dataset, network.input_size[0])}
        known = {key: value or defaults[key] for key, value in known.items()}
    missing = " and ".join(key for key, value in known.items() if not value)
    if missing:
        raise ValueError(f"{path!r} has no {missing} in its metadata; name its set with --dataset-classes")
    preparation = Preparation(network.input_size, *known["input_normalization"])

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        images = torch.from_numpy(batch)
        parts = images.split(AT_ONCE) if network.kind == ONNX_FILE else [images]
        return torch.cat([network.run(part) for part in parts]).numpy()

    return Classifier(run, known["classes"], preparation)


def from_torchvision(name: str, threads: int | None = None) -> Classifier:
    """A network of torchvision's with its ImageNet weights, from its own cache or the network.

    Raises ValueError for an unknown name or weights that cannot be had.
    """
    from torchvision import models

    from quantize.words import did_you_mean

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name!r}: {did_you_mean(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    try:
        model = models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of {TORCHVISION}{name} are not at hand and cannot be loaded ({error})"
        ) from error
    transforms = weights.transforms()
    side = transforms.crop_size[0]
    preparation = Preparation((3, side, side), transforms.mean, transforms.std)
    return Classifier(_torch_runner(model.eval(), threads), weights.meta["categories"], preparation)


def _torch_runner(model, threads: int | None) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return model(torch.from_numpy(batch)).numpy()

    return run
