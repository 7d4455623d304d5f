"""ReActNet: every input threshold is learned (RSign); the network's activations are RPReLU.

Liu et al., *ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions*,
2020. RPReLU and the shortcuts belong to the network, see models/.
"""

from dataclasses import dataclass

from ..scheme import register_scheme
from .bireal import BiReal


@register_scheme("react")
@dataclass(frozen=True)
class ReAct(BiReal):
    """:class:`BiReal` on ``x - threshold``, with a learned threshold a channel in every layer."""

    learned_threshold = True
    layouts = ("react",)
