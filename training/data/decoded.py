"""Folders of pictures decoded into memory, and kept: 60,000 small files take a minute to decode and a second to read.

A cached split is one file in ``$XNORKIT_CACHE``, or else ``xnorkit`` in the user's cache directory; an empty value
keeps nothing. It is good for as long as the names, sizes and times of its pictures are the same.
"""

import contextlib
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UnreadablePicture
from ..watch.console import progress
from .datasets import ArraySet
from .imagefolder import Pictures, center_fit, read_picture, to_tensor

VARIABLE = "XNORKIT_CACHE"
VERSION = 1  # of how pictures become pixels: center_fit, read_picture


def decode(pictures: Pictures, input_size: tuple[int, int, int], skip: bool = False) -> tuple[ArraySet, list[str]]:
    """All pictures of a split in memory, from the cache where they are there.

    Beside it the paths of those that cannot be read and are left out, which ``skip`` allows; such a split is not kept.

    Raises UnreadablePicture without it, and where nothing is left.
    """
    labels = torch.tensor(pictures.labels)
    file = cache_file(pictures, input_size)
    shape = (len(pictures.paths), *input_size)
    if file is not None and (images := _read(file, shape)) is not None:
        return ArraySet(images, labels), []
    images, good = _decode(pictures, input_size, skip)
    if bool(good.all()):
        if file is not None:
            _write(file, images)
        return ArraySet(images, labels), []
    skipped = [path for path, readable in zip(pictures.paths, good.tolist(), strict=True) if not readable]
    if len(skipped) == len(good):
        raise UnreadablePicture(f"none of {len(skipped)} pictures can be read, such as {skipped[0]!r}; replace them")
    return ArraySet(images[good], labels[good]), skipped


def _decode(pictures: Pictures, input_size: tuple[int, int, int], skip: bool) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W), and which could be read, by threads (the decoder releases the interpreter lock)."""
    channels, *size = input_size
    images = torch.empty((len(pictures.paths), *input_size), dtype=torch.uint8)

    def read(i: int) -> bool:
        try:
            images[i] = to_tensor(center_fit(read_picture(pictures.paths[i], channels), tuple(size)))
        except UnreadablePicture:
            if not skip:
                raise
            return False
        return True

    count = len(pictures.paths)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        good = progress(threads.map(read, range(count)), count, "Decode", unit="picture")
        return images, torch.tensor(list(good))


def cache_folder() -> Path | None:
    """Where what can be made again is kept, or None where nothing is."""
    place = os.environ.get(VARIABLE)
    if place == "":
        return None
    return Path(place or Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "xnorkit"))


def cache_file(pictures: Pictures, input_size: tuple[int, int, int]) -> Path | None:
    """Where the decoded split is kept, in a name that starts with that of the folder; None where nothing is kept."""
    folder = cache_folder()
    if folder is None:
        return None
    split = hashlib.sha256(repr((os.path.commonpath(pictures.paths), input_size)).encode())
    contents = hashlib.sha256(repr((VERSION, input_size)).encode())
    for path in pictures.paths:
        try:
            about = os.stat(path)
        except OSError:
            return None  # who decodes it says so
        contents.update(repr((path, about.st_size, about.st_mtime_ns)).encode())
    return folder / f"{split.hexdigest()[:16]}-{contents.hexdigest()[:16]}.npy"


def _read(file: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The images of a cached split; None where they are not there, or damaged."""
    try:
        images = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(images) if images.shape == shape and images.dtype == np.uint8 else None


def _write(file: Path, images: Tensor) -> None:
    """Keep a split, whole, in the place of what was kept of the same folder; without room for it, do not."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as temporary:
            np.save(temporary, images.numpy())
        os.replace(temporary.name, file)
        for older in set(file.parent.glob(f"{file.name.partition('-')[0]}-*.npy")) - {file}:
            older.unlink()
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary.name)
