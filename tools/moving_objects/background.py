"""The background of a moving camera's picture: two Gaussians a block of 4x4 pixels, one of them a candidate.

Yi et al., "Detection of Moving Objects with Non-Stationary Cameras in 5.8ms", CVPR workshops 2013. Slot 0 is
the background; slot 1 collects what does not fit it, and takes its place once it has lasted longer, so
that an object which passes does not soil the background.
"""

from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BLOCK = 4  # pixels a side
INITIAL_VARIANCE = 400.0  # of a new model: 20 grey levels
LEAST_VARIANCE = 25.0  # after mixing neighbours: 5 grey levels
NOISY_VARIANCE = 2500.0  # a model that varies more ages backwards...
AGE_DECAY = 0.001  # ...by exp(-0.001 * excess)
MAX_AGE = 30.0  # frames; the learning rate stays at least 1/31
MATCH = 2.0  # variances between a block's mean and its model's
FOREGROUND = 4.0  # variances between a pixel and the background
CERTAIN = 9.0  # variances: three standard deviations, beyond which one pixel in 370 lies by chance


class BackgroundModel:
    """The model of one picture size. Blocks are numbered row by row; n = rows * columns.

    A picture whose size is no multiple of 4 is continued at the right and the bottom by its last pixels.

    Attributes:
        mean, variance, age: (2, n) float32, a row a slot.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.rows, self.columns = -(-height // BLOCK), -(-width // BLOCK)
        blocks = self.rows * self.columns
        self.mean = np.zeros((2, blocks), np.float32)
        self.variance = np.full((2, blocks), INITIAL_VARIANCE, np.float32)
        self.age = np.zeros((2, blocks), np.float32)
        self._corners = [np.empty((2, 4, blocks), np.float32) for _ in range(3)]
        self._index = np.empty((4, blocks), np.intp)
        self._shares = np.empty((4, blocks), np.float32)
        self._grey = np.empty((self.rows * BLOCK, self.columns * BLOCK), np.uint8)

    def apply(self, grey: NDArray[np.uint8], homography: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Bring the model to the picture ``grey`` (height, width) and return its foreground, 255 or 0 a pixel.

        Args:
            homography: (3, 3), from pixels of this picture to pixels of the previous one.
        """
        self.compensate(homography)
        self.update(grey)
        return self.foreground()

    def compensate(self, homography: NDArray[np.float64]) -> None:
        """Move the model with the camera: each block takes the mixture of the four it lay between."""
        index, weight, inside = self._neighbours(homography)
        mean, variance, age = self._corners
        for state, corners in ((self.mean, mean), (self.variance, variance), (self.age, age)):
            np.take(state, index, axis=1, out=corners, mode="clip")
        np.einsum("mkn,kn->mn", mean, weight, out=self.mean)
        np.einsum("mkn,kn->mn", age, weight, out=self.age)
        mean -= self.mean[:, None]  # spread between the mixed models adds to their own variance
        mean *= mean
        variance += mean
        np.einsum("mkn,kn->mn", variance, weight, out=self.variance)
        np.maximum(self.variance, LEAST_VARIANCE, out=self.variance)
        noisy = self.variance > NOISY_VARIANCE
        self.age[noisy] *= np.exp(AGE_DECAY * (NOISY_VARIANCE - self.variance[noisy]))  # it stays at most MAX_AGE
        self.variance[:, ~inside] = INITIAL_VARIANCE
        self.age[:, ~inside] = 0

    def update(self, grey: NDArray[np.uint8]) -> None:
        """Learn the picture ``grey`` (height, width)."""
        block_mean, lowest, highest = self._read_blocks(grey)
        older = self._promote()
        first = self._matches(0, block_mean)
        self._restart(older | ~(first | self._matches(1, block_mean)), block_mean)
        mean, variance, age = (np.where(first, s[0], s[1]) for s in (self.mean, self.variance, self.age))
        new = age == 0
        rate = age / (age + 1)
        mean += (1 - rate) * (block_mean - mean)
        # The pixel farthest from the mean is the block's darkest or its brightest.
        observed = np.square(np.maximum(highest - mean, mean - lowest))
        variance += (1 - rate) * (observed - variance)
        np.maximum(variance, INITIAL_VARIANCE, out=variance, where=new)
        age = np.minimum(age + 1, MAX_AGE)
        for state, value in ((self.mean, mean), (self.variance, variance), (self.age, age)):
            np.copyto(state[0], value, where=first)
            np.copyto(state[1], value, where=~first)

    def foreground(self, variances: float = FOREGROUND) -> NDArray[np.uint8]:
        """(height, width): 255 where the last learned picture is far from a background older than a frame, else 0."""
        deviation = np.sqrt(variances * self.variance[0])
        # A grey level is a whole number: it is below a bound where it is below the next whole number.
        low, high = np.ceil(self.mean[0] - deviation), np.floor(self.mean[0] + deviation)
        young = self.age[0] <= 1
        low[young], high[young] = 0, 255
        low, high = self._across_pixels(np.maximum(low, 0)), self._across_pixels(np.minimum(high, 255))
        lines = self._grey.reshape(self.rows, BLOCK, -1)
        far = (lines < low) | (lines > high)
        return np.negative(far.view(np.uint8)).reshape(self._grey.shape)[: self.height, : self.width]

    def _across_pixels(self, blocks: Array) -> NDArray[np.uint8]:
        """Whole numbers of 0 to 255 a block, each as often as a block is wide: (rows, 1, pixels)."""
        repeated = blocks.astype(np.uint32) * np.uint32(0x01010101)  # the byte, four times
        return repeated.view(np.uint8).reshape(self.rows, 1, -1)

    def _neighbours(self, homography: NDArray[np.float64]) -> tuple[NDArray[np.intp], Array, NDArray[np.bool_]]:
        """Blocks around each warped centre (4, n), their bilinear weights (4, n), and which lie in the picture (n,)."""
        middle = (BLOCK - 1) / 2
        across = BLOCK * np.arange(self.columns, dtype=np.float32) + np.float32(middle)
        down = (BLOCK * np.arange(self.rows, dtype=np.float32) + np.float32(middle))[:, None]
        x, y, scale = (a * across + (b * down + c) for a, b, c in homography.astype(np.float32))
        inside = scale > 1e-9  # what is not was behind the camera
        scale[~inside] = 1
        x /= scale
        y /= scale
        inside &= (x >= -0.5) & (x <= self.width - 0.5) & (y >= -0.5) & (y <= self.height - 0.5)
        left, right_share = self._between(x, self.columns)
        top, bottom_share = self._between(y, self.rows)
        corner = (top * self.columns + left).ravel()
        corner[~inside.ravel()] = 0
        index = self._index
        for place, step in enumerate((0, 1, self.columns, self.columns + 1)):
            np.add(corner, step, out=index[place])
        left_share, top_share = 1 - right_share, 1 - bottom_share
        shares = self._shares.reshape(4, self.rows, self.columns)
        for place, (down, across) in enumerate(product((top_share, bottom_share), (left_share, right_share))):
            np.multiply(down, across, out=shares[place])
        return index, self._shares, inside.ravel()

    @staticmethod
    def _between(pixels: Array, blocks: int) -> tuple[NDArray[np.intp], Array]:
        """The block at or before each place along an axis, and the share of the next one.

        A place beyond the first or the last block has that block's value alone: the same as leaving out the neighbour
        that there is not and sharing its weight, since bilinear weights are products of a row's and a column's.
        """
        place = (pixels - (BLOCK - 1) / 2) / BLOCK
        np.maximum(place, 0, out=place)
        np.minimum(place, blocks - 1, out=place)
        first = np.minimum(place, max(blocks - 2, 0)).astype(np.intp)
        return first, place - first.astype(np.float32)

    def _read_blocks(self, grey: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
        """Keep the picture, continued to whole blocks; mean, lowest and highest pixel of each block (n,)."""
        height, width = self._grey.shape
        missing = height - self.height, width - self.width
        cv2.copyMakeBorder(grey, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE, dst=self._grey)
        total = _reduced(self._grey.astype(np.uint16), np.add)  # 16 * 255 fits
        return total / np.float32(BLOCK * BLOCK), *(_reduced(self._grey, pick) for pick in (np.minimum, np.maximum))

    def _promote(self) -> NDArray[np.bool_]:
        """The older model takes slot 0; where it was the other, which is to start anew (n,)."""
        older = self.age[1] > self.age[0]
        for state in (self.mean, self.variance, self.age):
            np.copyto(state[0], state[1], where=older)
        return older

    def _restart(self, where: NDArray[np.bool_], block_mean: Array) -> None:
        for state, value in ((self.mean, block_mean), (self.variance, INITIAL_VARIANCE), (self.age, 0)):
            np.copyto(state[1], value, where=where)

    def _matches(self, slot: int, block_mean: Array) -> NDArray[np.bool_]:
        return np.square(block_mean - self.mean[slot]) < MATCH * self.variance[slot]


def _reduced(pixels: NDArray, pick: np.ufunc) -> Array:
    """Of each block, all of its pixels by ``pick``, two at a time: (n,)."""
    for _ in range(BLOCK.bit_length() - 1):
        pixels = pick(pixels[::2], pixels[1::2])
    for _ in range(BLOCK.bit_length() - 1):
        pixels = pick(pixels[:, ::2], pixels[:, 1::2])
    return pixels.ravel().astype(np.float32)
