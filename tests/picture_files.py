"""Small pictures of noise in folders, as --dataset imagefolder reads them."""

import numpy as np
from PIL import Image


def write_pictures(root, classes=("cat", "dog"), count=3, size=(6, 6), splits=("train", "test")):
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root
