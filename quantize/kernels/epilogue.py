"""What a binary convolution does to values: how floats become its bits, and what becomes of its sums."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor

Output = Literal["float32", "int32", "bits"]
Layout = Literal["nchw", "nhwc"]


class Binarize(NamedTuple):
    """How floats become bits: a bit is ``x >= threshold[c]``, or ``x <= threshold[c]`` where flipped.

    ``threshold`` is float32 (channels,), None for 0; ``flip`` bool (channels,), None for nowhere.
    """

    threshold: Tensor | None = None
    flip: Tensor | None = None


class Epilogue(NamedTuple):
    """``relu(sum * scale[c] * input_scale[n, group, pixel] + bias[c])``; each part may be left out.

    ``threshold`` and ``flip``, one a channel, belong to bits, as in :class:`Binarize`.

    ``shuffle`` G moves the output's channel ``a * n + b``, of G groups of n, to ``b * G + a``: a channel shuffle
    (Zhang et al., *ShuffleNet*, 2018) of the result. All else counts channels as the convolution does.

    ``output``: "float32", "bits", or "int32", which are the bare sums: they take a shuffle alone.
    """

    scale: Tensor | None = None
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    relu: bool = False
    threshold: Tensor | None = None
    flip: Tensor | None = None
    shuffle: int = 1
    output: Output = "float32"

    @property
    def is_bare(self) -> bool:
        """Whether it leaves the sums as they are, but for the order of their channels."""
        return self.scale is None and self.bias is None and self.input_scale is None and not self.relu


AT_ZERO, PLAIN = Binarize(), Epilogue()


def check_epilogue(epilogue: Epilogue, layout: Layout) -> None:
    """ValueError where there is no such output or layout, or the output has no place for what the epilogue computes."""
    for name, value, valid in (("output", epilogue.output, get_args(Output)), ("layout", layout, get_args(Layout))):
        if value not in valid:
            raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}")
    if epilogue.output == "int32" and not epilogue.is_bare:
        raise ValueError("an int32 output holds bare sums: it takes no scale, bias, input_scale or relu")
