"""Real test images in the repository, every ``SAMPLE_STEP``-th of a set: one picture of rows of images, and labels.

python tests/zoo_samples.py mnist --data-dir data
python tests/zoo_samples.py cifar10 --dataset imagefolder --data-dir DIR
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.zoo import SAMPLE_STEP
from training import TrainConfig
from training.data import get_dataset, load_data

FOLDER = Path(__file__).parent / "data"
COLUMNS = 25


def read(name: str) -> tuple[Tensor, Tensor]:
    """Images of a set, uint8 (N, C, H, W), and labels (N,)."""
    labels = torch.tensor(json.loads((FOLDER / f"{name}.json").read_text()))
    pixels = torch.from_numpy(np.array(Image.open(FOLDER / f"{name}.png")))
    pixels = pixels.view(*pixels.shape[:2], -1)
    size = pixels.shape[1] // COLUMNS
    tiles = pixels.unflatten(0, (-1, size)).unflatten(2, (COLUMNS, size)).permute(0, 2, 4, 1, 3).flatten(0, 1)
    return tiles[: len(labels)].contiguous(), labels


def write(name: str, images: Tensor, labels: Tensor) -> None:
    """Keep images, uint8 (N, C, H, W) of a multiple of ``COLUMNS``."""
    rows = images.unflatten(0, (-1, COLUMNS)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(rows.squeeze(-1).numpy()).save(FOLDER / f"{name}.png", optimize=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(labels.tolist()) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the set in the zoo")
    parser.add_argument("--dataset", help="default: NAME")
    parser.add_argument("--data-dir", default="data")
    flags = parser.parse_args()
    dataset = flags.dataset or flags.name
    channels = 1 if flags.name in ("mnist", "fashionmnist", "digits") else 3
    config = TrainConfig.create(dataset=dataset, data_dir=flags.data_dir, augment="none")
    size = (channels, *get_dataset(flags.name).image_size)
    data = load_data(config, size, torch.device("cpu"), test_only=True)
    ((images, labels),) = data.test.raw_batches([torch.arange(0, data.test.count, SAMPLE_STEP)])
    write(flags.name, images, labels)
    assert all(torch.equal(a, b) for a, b in zip(read(flags.name), (images, labels), strict=True))


if __name__ == "__main__":
    main()
