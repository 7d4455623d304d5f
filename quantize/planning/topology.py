"""What the autograd graph of one run says about a network: what was computed from what.

A node is an operation, its ``next_functions`` are the operations that made its operands, and a leaf is a
parameter or a part of the network's input.
"""

import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

# Operations that multiply one operand, as a matrix or filters, with another.
_PRODUCT = re.compile(
    r"(Addmm|Mm|Bmm|Baddbmm|Addbmm|Addmv|Mv|Dot|Linear|Trilinear|\w*GroupedMm|\w*Convolution|\w*Rnn\w*|\w*_conv\w*)Backward\d*"
)


def node_of(x: Tensor) -> Node | None:
    """The operation that made ``x``, or the leaf that it is; None where autograd does not follow it."""
    return get_gradient_edge(x).node if x.requires_grad else None


class Topology:
    """The graph above some nodes, in topological order.

    Attributes:
        products: id of a parameter -> how many products it is an operand of, as it is or as something
            that was computed from parameters alone (transposed, standardized, a slice).

    Args:
        nodes: the graph is what these were computed from.
        inputs: ids of the tensors that are the network's input.
        layers: id of a parameter -> when its layer ran, counted from 0.
    """

    def __init__(self, nodes: Iterable[Node | None], inputs: Iterable[int], layers: dict[int, int]):
        self._position = {node: i for i, node in enumerate(_topological(nodes))}
        self._from_input: set[Node] = set()
        self._past_weight: set[Node] = set()
        self._latest: dict[Node | None, int] = {}
        self._weights: dict[Node, frozenset[int]] = {}  # nodes that were computed from parameters alone
        self._layers = layers
        self.products: Counter[int] = Counter()
        inputs = frozenset(inputs)
        for node in self._position:
            if not hasattr(node, "variable"):
                self._add_operation(node)
            elif id(node.variable) in inputs:
                self._from_input.add(node)
            else:
                self._add_parameter(node, id(node.variable))

    def _add_parameter(self, node: Node, parameter: int) -> None:
        self._weights[node] = frozenset([parameter])
        if parameter in self._layers:
            self._past_weight.add(node)
            self._latest[node] = self._layers[parameter]

    def _add_operation(self, node: Node) -> None:
        operands = _operands(node)
        for marked in (self._from_input, self._past_weight):
            if any(operand in marked for operand in operands):
                marked.add(node)
        latest = [self._latest[operand] for operand in operands if operand in self._latest]
        if latest:
            self._latest[node] = max(latest)
        weights = [self._weights[operand] for operand in operands if operand in self._weights]
        if _PRODUCT.fullmatch(node.name()):
            # What a layer multiplies with its weight is its input, a parameter (a learned query) or not.
            owned = [parameters for parameters in weights if not parameters.isdisjoint(self._layers)]
            self.products.update(parameter for parameters in owned or weights for parameter in parameters)
            self._past_weight.add(node)
        elif operands and len(weights) == len(operands) and not node.name().startswith("Embedding"):
            self._weights[node] = frozenset().union(*weights)

    def is_from_input(self, node: Node | None) -> bool:
        """Whether ``node`` comes from the network's input."""
        return node in self._from_input

    def is_first(self, node: Node | None) -> bool:
        """Whether ``node`` comes from the network's input without a product with a weight in between."""
        return self.is_from_input(node) and node not in self._past_weight

    def latest(self, node: Node | None) -> int | None:
        """When the last layer ran that ``node`` was computed from; None where there is none."""
        return self._latest.get(node)

    def merges(self, operation: str) -> Iterator[tuple[set[Node], set[Node]]]:
        """For each sum ("Add") or product ("Mul") of two values with a common origin: what only one of them
        was computed from, and what only the other was.
        """
        for node in self._position:
            if node.name().rstrip("0123456789") == f"{operation}Backward":
                sides = [operand for operand in _operands(node) if operand not in self._weights]
                apart = self._apart(*sides) if len(sides) == 2 and sides[0] is not sides[1] else None
                if apart is not None:
                    yield apart

    def _apart(self, left: Node, right: Node) -> tuple[set[Node], set[Node]] | None:
        """The ancestors of one node that are none of the other's, with the node itself; None: they share none.

        As ``git merge-base`` does it: from the latest node back, until all that is left belongs to both.
        """
        sides = {left: {0}, right: {1}}
        queue = [(-self._position[node], node) for node in (left, right)]
        heapq.heapify(queue)
        apart: tuple[set[Node], set[Node]] = (set(), set())
        only, shared = 2, False  # queued nodes that belong to one side; whether any belongs to both
        while only and queue:
            node = heapq.heappop(queue)[1]
            if len(sides[node]) == 1:
                only -= 1
                apart[next(iter(sides[node]))].add(node)
            for operand in _operands(node):
                known = sides.get(operand)
                if known is None:
                    sides[operand] = set(sides[node])
                    heapq.heappush(queue, (-self._position[operand], operand))
                    only += len(sides[node]) == 1
                elif known != sides[node] and len(known) == 1:
                    known |= sides[node]
                    only, shared = only - 1, True
        return apart if shared else None


def _operands(node: Node) -> list[Node]:
    return [operand for operand, _ in node.next_functions if operand is not None]


def _topological(nodes: Iterable[Node | None]) -> Iterator[Node]:
    """All that ``nodes`` were computed from and the nodes themselves, operands first."""
    seen: set[Node] = set()
    pending = [(node, False) for node in nodes if node is not None]
    while pending:
        node, operands_done = pending.pop()
        if operands_done:
            yield node
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            pending += ((operand, False) for operand in _operands(node) if operand not in seen)
