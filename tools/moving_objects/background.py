"""The background of a moving camera's picture: two Gaussians a block of 4x4 pixels, one of them a candidate.

Yi et al., "Detection of Moving Objects with Non-Stationary Cameras in 5.8ms", CVPR workshops 2013. Slot 0 is
the background; slot 1 collects what does not fit it, and takes its place once it has lasted longer, so
that an object which passes does not soil the background.
"""

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
PIXELS = BLOCK * BLOCK


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
        self._mixed = np.empty((2, blocks), np.float32)
        self._corners = [np.empty((2, 4, blocks), np.float32) for _ in range(3)]
        self._pixels = np.empty((PIXELS, blocks), np.float32)
        self._distance = np.empty((PIXELS, blocks), np.float32)
        self._foreground = np.empty((PIXELS, blocks), np.bool_)
        self._centres = self._block_centres()

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
        np.subtract(self.variance, NOISY_VARIANCE, out=self._mixed)
        np.maximum(self._mixed, 0, out=self._mixed)
        self._mixed *= -AGE_DECAY
        np.exp(self._mixed, out=self._mixed)
        self.age *= self._mixed  # mixing and decay keep it at most MAX_AGE
        self.variance[:, ~inside] = INITIAL_VARIANCE
        self.age[:, ~inside] = 0

    def update(self, grey: NDArray[np.uint8]) -> None:
        """Learn the picture ``grey`` (height, width)."""
        block_mean, lowest, highest = self._read_blocks(grey)
        self._promote(block_mean)
        first = self._matches(0, block_mean)
        restart = ~(first | self._matches(1, block_mean))
        self._restart(restart, block_mean)
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

    def foreground(self) -> NDArray[np.uint8]:
        """(height, width): 255 where the last learned picture is far from a background older than a frame, else 0."""
        np.subtract(self._pixels, self.mean[0], out=self._distance)
        self._distance *= self._distance
        np.greater(self._distance, FOREGROUND * self.variance[0], out=self._foreground)
        self._foreground &= self.age[0] > 1
        planes = self._foreground.view(np.uint8).reshape(BLOCK, BLOCK, self.rows, self.columns)
        mask = planes.transpose(2, 0, 3, 1).reshape(self.rows * BLOCK, self.columns * BLOCK)
        return mask[: self.height, : self.width] * np.uint8(255)

    def _block_centres(self) -> NDArray[np.float64]:
        """(3, n): homogeneous pixel coordinates x, y, 1."""
        y, x = np.indices((self.rows, self.columns)).reshape(2, -1)
        middle = (BLOCK - 1) / 2
        return np.stack([BLOCK * x + middle, BLOCK * y + middle, np.ones(len(x))])

    def _neighbours(self, homography: NDArray[np.float64]) -> tuple[NDArray[np.intp], Array, NDArray[np.bool_]]:
        """Blocks around each warped centre (4, n), their bilinear weights (4, n), and which lie in the picture (n,)."""
        x, y, scale = homography @ self._centres
        inside = scale > 1e-9  # what is not was behind the camera
        scale[~inside] = 1
        x, y = x / scale, y / scale
        inside &= (x >= -0.5) & (x <= self.width - 0.5) & (y >= -0.5) & (y <= self.height - 0.5)
        middle = (BLOCK - 1) / 2
        column, row = (np.where(inside, (v - middle) / BLOCK, 0.0) for v in (x, y))
        left, top = np.floor(column), np.floor(row)
        right_share, bottom_share = column - left, row - top
        # Clamping gives a neighbour beyond the edge the edge's own values: the same as leaving it out and
        # sharing its weight, since bilinear weights are products of a row's and a column's.
        columns = [np.clip(left + step, 0, self.columns - 1).astype(np.intp) for step in (0, 1)]
        rows = [np.clip(top + step, 0, self.rows - 1).astype(np.intp) * self.columns for step in (0, 1)]
        index = np.stack([r + c for r in rows for c in columns])
        shares = [r * c for r in (1 - bottom_share, bottom_share) for c in (1 - right_share, right_share)]
        return index, np.stack(shares).astype(np.float32), inside

    def _read_blocks(self, grey: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
        """Keep the pixels by place in their block (16, n); mean, lowest and highest of each block (n,)."""
        missing = (self.rows * BLOCK - self.height, self.columns * BLOCK - self.width)
        if any(missing):
            grey = np.pad(grey, [(0, m) for m in missing], mode="edge")
        planes = grey.reshape(self.rows, BLOCK, self.columns, BLOCK).transpose(1, 3, 0, 2).reshape(PIXELS, -1)
        np.copyto(self._pixels, planes)
        mean = self._pixels.sum(axis=0) / np.float32(PIXELS)
        return mean, planes.min(axis=0).astype(np.float32), planes.max(axis=0).astype(np.float32)

    def _promote(self, block_mean: Array) -> None:
        """The older model takes slot 0; the slot it leaves starts anew."""
        older = self.age[1] > self.age[0]
        for state in (self.mean, self.variance, self.age):
            np.copyto(state[0], state[1], where=older)
        self._restart(older, block_mean)

    def _restart(self, where: NDArray[np.bool_], block_mean: Array) -> None:
        for state, value in ((self.mean, block_mean), (self.variance, INITIAL_VARIANCE), (self.age, 0)):
            np.copyto(state[1], value, where=where)

    def _matches(self, slot: int, block_mean: Array) -> NDArray[np.bool_]:
        return np.square(block_mean - self.mean[slot]) < MATCH * self.variance[slot]
