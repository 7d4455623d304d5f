"""What computes: the operations that every backend has, and weights that know theirs."""

from typing import NamedTuple, Protocol

from torch import Tensor

from .epilogue import AT_ZERO, PLAIN, Binarize, Epilogue, Layout
from .geometry import ConvGeometry, PoolGeometry


class Backend(Protocol):
    """A module with these functions: :mod:`.reference`, :mod:`.cpu` and :mod:`.cuda`.

    What does not fit raises ValueError, before any memory is touched.
    """

    def pack(self, x: Tensor, binarize: Binarize = AT_ZERO) -> Tensor:
        """Floats (N, C, H, W), in either layout, to bits, int64 (N, H, W, words) as in :mod:`quantize.packing`."""

    def prepare_weights(
        self, dense: Tensor, geometry: ConvGeometry, kernel: str | None = None, size: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Dense weights, uint8 (out, bytes), in the order that a kernel reads them: for this machine, not for a file.

        ``kernel`` forces one (so does the environment variable XNORKIT_KERNEL); otherwise it is the fastest for the
        geometry and, where given, the input's ``size`` (height, width).
        """

    def dense_weights(self, weights: Tensor, geometry: ConvGeometry) -> Tensor:
        """The dense weights, uint8 (out, bytes), that :meth:`prepare_weights` made ``weights`` from."""

    def kernel_name(self, weights: Tensor) -> str:
        """The kernel that ``weights`` of :meth:`prepare_weights` are for."""

    def conv2d(
        self,
        words: Tensor,
        weights: Tensor,
        geometry: ConvGeometry,
        epilogue: Epilogue = PLAIN,
        layout: Layout = "nchw",
    ) -> Tensor:
        """The binary convolution of bits (N, H, W, words) with weights of :meth:`prepare_weights`.

        Returns what the epilogue says: float32 or int32 (N, out, H', W') in memory order ``layout``, or bits, int64
        (N, H', W', words).
        """

    def conv2d_float(
        self,
        x: Tensor,
        weights: Tensor,
        geometry: ConvGeometry,
        epilogue: Epilogue = PLAIN,
        layout: Layout = "nchw",
        binarize: Binarize = AT_ZERO,
    ) -> Tensor:
        """:meth:`pack` and :meth:`conv2d` in one call, of floats (N, C, H, W)."""

    def max_pool2d(self, words: Tensor, channels: int, geometry: PoolGeometry, flip: Tensor | None = None) -> Tensor:
        """The bits of a max pooling, from bits (N, H, W, words) of ``channels``: int64 (N, H', W', words).

        The bit of a channel is ``x >= threshold``, so the maximum's is the or of a window's bits; it is their and
        where ``flip``, bool (channels,): there the bit is ``x <= threshold``.
        """


class PreparedWeights(NamedTuple):
    """Weights in the order of a kernel, as ``data``, and the backend that put them there and reads them."""

    backend: Backend
    data: Tensor
