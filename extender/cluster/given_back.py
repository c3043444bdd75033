"""GPU memory that rewritten pods do not hold, against the whole card each of them asked for."""

from collections import Counter
from collections.abc import Callable, Mapping

from extender.core.catalogue import is_mig_resource
from extender.core.node import MEMORY_LABEL, Node, usable_mib
from extender.core.quantity import MIB

Slices = tuple[tuple[str, int], ...]
"""MIG resource, count."""


class GivenBack:
    """Counts slices of bound, rewritten pods by node; what they are worth is added up when asked.

    A node may come after its pods, and its labels change: so nothing of it is remembered here.
    """

    def __init__(self) -> None:
        self._by_pod: dict[str, tuple[str, Slices]] = {}
        self._slices: Counter[tuple[str, str]] = Counter()
        """(node, MIG resource) -> count."""

    def put(self, uid: str, node: str, asked: Slices) -> None:
        """A rewritten pod is bound there, and asks for that."""
        slices = tuple((name, count) for name, count in asked if is_mig_resource(name))
        self.drop(uid)
        self._by_pod[uid] = (node, slices)
        for name, count in slices:
            self._slices[node, name] += count

    def drop(self, uid: str) -> None:
        """The pod has ended, or was never here."""
        node, slices = self._by_pod.pop(uid, ("", ()))
        for name, count in slices:
            self._slices[node, name] -= count
            if not self._slices[node, name]:
                del self._slices[node, name]

    def total_bytes(
        self, nodes: Callable[[str], Node | None], overrides: Mapping[str, Mapping[str, int]]
    ) -> int:
        """Card less slice, over all of them; where one of the two is not known, nothing.

        May be asked by another thread, while pods come and go.

        Args:
            nodes: the node of a name.
            overrides: usable MiB by product label and profile, from the configuration.
        """
        total_mib = 0
        for (name, resource), count in dict(self._slices).items():
            if (node := nodes(name)) is None:
                continue
            card = card_mib(node)
            slice_mib = usable_mib(resource, node.labels, node.product, overrides)
            if card is not None and slice_mib is not None:
                total_mib += count * max(0, card - slice_mib)
        return total_mib * MIB


def card_mib(node: Node) -> int | None:
    """Memory of a whole card of the node: of the profile that takes all of it, else as labelled."""
    if node.product is not None:
        return node.product.memory_mib
    label = node.labels.get(MEMORY_LABEL, "")
    return int(label[:9]) if label.isascii() and label.isdigit() else None
